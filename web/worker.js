// What computes: `web/bundle` puts it behind the glue of each module, in one file, so that a worker waits for one file
// only. `explore` is the first panels' module, `device` that of all kernels, and `text` that of sub-words and of the
// model that writes. The page starts it, and then asks for its functions by name.

let compiledBy;
/** The module, where the page has compiled it. */
const compiled = new Promise((resolve) => { compiledBy = resolve; });
const loaded = Promise.all([import(import.meta.url), compiled]).then(async ([glue, compiled]) => {
  await glue.default({ module_or_path: compiled ?? new URL(import.meta.url.replace(/\.js$/, "_bg.wasm")) });
  return glue;
});
// Every call tells it.
loaded.catch(() => {});

// What a call gives to the page without a copy.
const transfers = (value) =>
  value && typeof value === "object" ? Object.values(value).filter(ArrayBuffer.isView).map((array) => array.buffer) : [];

async function fetched(file, what) {
  const answer = await fetch(file);
  if (!answer.ok) throw new Error(`${what} there (${answer.status})`);
  return new Uint8Array(await answer.arrayBuffer());
}

/** Bytes of a file of the reader's. */
async function part(file, from, length) {
  return new Uint8Array(await file.slice(from, from + length).arrayBuffer());
}

// Between the page's `stop` and its next `go`, reading and writing end with the next piece or token.
let stopped = false;

const calls = {
  async train(glue, size, progress) {
    glue.train(await fetched(new URL("../persuasion.txt", import.meta.url), "the text to train on isn't"), size, progress);
  },

  /** What JavaScript is told of the adapter beside what the module is. */
  async described() {
    const info = (await navigator.gpu?.requestAdapter())?.info;
    return info && { vendor: info.vendor, architecture: info.architecture, device: info.device, description: info.description };
  },

  go() { stopped = false; },
  stop() { stopped = true; },

  /** Reads a model piece by piece; gives whether it wasn't stopped. */
  async model(glue, file, progress) {
    let pieces = null;
    for (let bytes = 1 << 22; !pieces; bytes *= 2) pieces = glue.begin(await part(file, 0, bytes), file.size);
    for (let at = 0; at < pieces.length / 2; at++) {
      if (stopped) return false;
      glue.take(at, await part(file, pieces[2 * at], pieces[2 * at + 1]));
      progress("", at + 1, pieces.length / 2);
    }
    await glue.ready();
    return true;
  },

  /** Goes on with a text, by so many tokens at most; `progress` is told of each. */
  async write(glue, text, most, progress) {
    const prompt = glue.start(text), written = [];
    let answer = null, begun = performance.now();
    for (const [at, token] of prompt.entries()) {
      if (stopped) break;
      answer = await glue.read(token);
      progress("reading", at + 1, prompt.length, { memory: answer.memory });
    }
    const readSeconds = (performance.now() - begun) / 1000;
    begun = performance.now();
    const seconds = () => (performance.now() - begun) / 1000;
    while (!stopped && answer.next !== null && written.length < most) {
      const { next, bytes } = answer;
      answer = await glue.read(next);
      written.push(next);
      progress("writing", written.length, most, { bytes, memory: answer.memory, seconds: seconds() });
    }
    const ended = !stopped && answer.next === null, wrote = seconds();
    await glue.stored();
    return { tokens: written, prompt: prompt.length, ended, stopped, readSeconds, seconds: wrote };
  },
};

self.onmessage = async ({ data }) => {
  if ("compiled" in data) return compiledBy(data.compiled);
  const { id, call, args } = data;
  const progress = (label, done, total, more = {}) => self.postMessage({ id, progress: { label, done, total, ...more } });
  const freed = [];
  try {
    const glue = await loaded;
    const given = args.map((argument) => {
      if (argument === "progress") return progress;
      if (argument?.choice) {
        const choice = new glue.Choice(...argument.choice);
        // `run` takes its choice over.
        if (call !== "run") freed.push(choice);
        return choice;
      }
      return argument;
    });
    const value = await (calls[call] ? calls[call](glue, ...given) : glue[call](...given));
    self.postMessage({ id, value }, transfers(value));
  } catch (error) {
    self.postMessage({ id, error: { name: error?.name ?? "Error", message: error?.message ?? String(error) } });
  } finally {
    for (const choice of freed) choice.free();
  }
};
