// Workers as functions that answer later.

/**
 * A worker with one of the modules, which the first call starts. Calls are begun in the order in which they were made,
 * and answered in the order in which they are done.
 */
export class Computing {
  #module;
  #compiled;
  #worker;
  #failed = null;
  #open = new Map();
  #next = 0;

  /** Of a worker that runs already, `failed` is the error that it may have had; `compiled` is a module for it. */
  constructor(module, { worker = null, failed = null, compiled = null } = {}) {
    this.#module = module;
    this.#compiled = compiled;
    if (worker) this.#begin(worker);
    failed?.then((event) => this.#fail(event));
  }

  #begin(worker) {
    this.#worker = worker;
    worker.onmessage = ({ data }) => {
      const call = this.#open.get(data.id);
      if (data.progress) return call?.progress?.(data.progress);
      this.#open.delete(data.id);
      if (!data.error) return call?.resolve(data.value);
      const error = new Error(data.error.message);
      error.name = data.error.name;
      call?.reject(error);
    };
    worker.onerror = (event) => this.#fail(event);
    // Without a module that was compiled here, the worker fetches it.
    Promise.resolve(this.#compiled).then((compiled) => worker.postMessage({ compiled }));
  }

  #fail(event) {
    this.#failed = new Error(event.message || `the worker of ${this.#module} didn't start`);
    for (const { reject } of this.#open.values()) reject(this.#failed);
    this.#open.clear();
  }

  /** Asks for a function of the module; `"progress"` among the arguments stands for `progress`. */
  call(name, args = [], { progress, transfer = [] } = {}) {
    if (!this.#worker) this.#begin(new Worker(new URL(`./wasm/${this.#module}.js`, import.meta.url), { type: "module" }));
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      if (this.#failed) return reject(this.#failed);
      this.#open.set(id, { resolve, reject, progress });
      this.#worker.postMessage({ id, call: name, args }, transfer);
    });
  }
}

/** Runs `work` for the newest request only: what was asked for meanwhile is left out. */
export function newest(work) {
  let running = false, waiting = null;
  const next = async () => {
    running = true;
    while (waiting) {
      const args = waiting;
      waiting = null;
      await work(...args);
    }
    running = false;
  };
  return (...args) => {
    waiting = args;
    if (!running) next();
  };
}
