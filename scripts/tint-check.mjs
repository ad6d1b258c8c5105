// Compiles WGSL files with Tint (Chrome's compiler) through Dawn. Called by scripts/tint-check, which says why.
//
// usage: node tint-check.mjs DAWN_MODULE SHADER_DIR [DAWN_OPTION…]
// exit status: 0 all passed, 1 some failed, 3 no adapter
import { readFileSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [dawnModule, dir, ...options] = process.argv.slice(2);
const { create, globals } = await import(pathToFileURL(resolve(dawnModule)));
Object.assign(globalThis, globals);

function fatal(message) {
  console.log(`tint: ${message}`);
  process.exit(1);
}

let manifest;
try {
  manifest = JSON.parse(readFileSync(join(dir, 'manifest.json'), 'utf8'));
} catch (error) {
  fatal(`${join(dir, 'manifest.json')}: ${error.message}`);
}
if (!Array.isArray(manifest) || manifest.length === 0) fatal('manifest.json is not a list of shaders');

const files = readdirSync(dir).filter((name) => name.endsWith('.wgsl'));
const named = new Set(manifest.map((entry) => entry.file));
let passed = 0;
let failed = 0;
let skipped = 0;

function fail(name, message) {
  failed += 1;
  console.log(`FAILED ${name}: ${message}`);
}

for (const name of files.filter((name) => !named.has(name)).sort()) {
  fail(name, 'not in manifest.json');
}

const gpu = create(options);
let adapter = null;
try {
  adapter = await gpu.requestAdapter();
} catch (error) {
  console.log(`tint: ${error.message}`);
}
if (!adapter) {
  console.log('tint: no adapter');
  process.exit(3);
}
const info = adapter.info;
console.log(`tint: ${info.description || info.device || info.architecture || 'unnamed adapter'}`);

// Each shader gets a device with exactly the features (and limits) that it declares: one that it forgot to declare
// must fail here as it would in a browser.
const devices = new Map();
async function deviceFor(features, limits) {
  const key = JSON.stringify([[...features].sort(), Object.entries(limits).sort()]);
  if (!devices.has(key)) {
    // Dawn's adapters are good for one device each.
    const fresh = await gpu.requestAdapter();
    const device = await fresh.requestDevice({ requiredFeatures: features, requiredLimits: limits });
    device.addEventListener?.('uncapturederror', (event) => fail('(device)', event.error.message.trim()));
    devices.set(key, device);
  }
  return devices.get(key);
}

// The lines of Dawn's pipeline errors that say what is wrong, without its notes on which call it was.
const brief = (message) =>
  message
    .split('\n')
    .filter((line) => line.trim() && !/^\s*- While/.test(line))
    .slice(0, 4)
    .join(' | ');

// A driver compiles several at once: on a software device that is most of the time.
const AT_ONCE = 8;
const pending = new Set();
for (const entry of manifest) {
  const { file, entry_point: entryPoint, features = [], limits = {}, constants } = entry;
  const name = `${file}:${entryPoint}`;
  const lacking = [
    ...features.filter((feature) => !adapter.features.has(feature)),
    ...Object.entries(limits)
      .filter(([limit, value]) => !(adapter.limits[limit] >= value))
      .map(([limit, value]) => `${limit} ${value}`),
  ];
  if (lacking.length > 0) {
    skipped += 1;
    console.log(`SKIPPED tint ${name}: the adapter lacks ${lacking.join(', ')}`);
    continue;
  }
  let code;
  try {
    code = readFileSync(join(dir, file), 'utf8');
  } catch (error) {
    fail(name, error.message);
    continue;
  }
  let device;
  try {
    device = await deviceFor(features, limits);
  } catch (error) {
    fail(name, `no device: ${error.message}`);
    continue;
  }
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code, label: file });
  const messages = (await module.getCompilationInfo()).messages;
  const errors = messages.filter((message) => message.type === 'error');
  const moduleError = await device.popErrorScope();
  for (const { lineNum, linePos, message } of messages.filter((message) => message.type === 'warning')) {
    console.log(`warning ${file}:${lineNum}:${linePos}: ${message}`);
  }
  if (errors.length > 0 || moduleError) {
    const [first] = errors;
    if (first) fail(`${file}:${first.lineNum}:${first.linePos}`, first.message.replaceAll('\n', ' '));
    else fail(name, brief(moduleError.message));
    continue;
  }
  const compute = { module, entryPoint, constants };
  const pipeline = device.createComputePipelineAsync({ layout: 'auto', compute }).then(
    () => (passed += 1),
    (error) => fail(name, brief(error.message)),
  );
  pending.add(pipeline);
  pipeline.finally(() => pending.delete(pipeline));
  if (pending.size >= AT_ONCE) await Promise.race(pending);
}
await Promise.all(pending);

console.log(`tint: ${passed} passed, ${failed} failed, ${skipped} skipped`);
// Not by falling off the end: Dawn's native threads may keep node alive.
process.exit(failed > 0 ? 1 : 0);
