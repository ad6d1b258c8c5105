// A worker that computes: `explore` has the panels' module, `device` that of all kernels. The page
// starts it with the module's name, and then asks for its functions by name.

const module = new URL(self.location.href).searchParams.get("module");
const loaded = import(`./wasm/${module}.js`).then(async (glue) => {
  await glue.default({ module_or_path: new URL(`./wasm/${module}_bg.wasm`, self.location.href) });
  return glue;
});

// What a call gives to the page without a copy.
const transfers = (value) =>
  value && typeof value === "object" ? Object.values(value).filter(ArrayBuffer.isView).map((array) => array.buffer) : [];

const calls = {
  async load(glue) {
    const answer = await fetch("./persuasion.bin");
    if (!answer.ok) throw new Error(`the attention inputs aren't there (${answer.status})`);
    return glue.load(new Uint8Array(await answer.arrayBuffer()));
  },
};

self.onmessage = async ({ data: { id, call, args } }) => {
  const progress = (label, done, total) => self.postMessage({ id, progress: { label, done, total } });
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
