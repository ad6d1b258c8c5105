// Workers as functions that answer later.

/** A worker with one of the modules. Calls are answered in the order in which they are done. */
export class Computing {
  #worker;
  #open = new Map();
  #next = 0;

  constructor(module) {
    this.#worker = new Worker(new URL(`./worker.js?module=${module}`, import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data }) => {
      const call = this.#open.get(data.id);
      if (data.progress) return call?.progress?.(data.progress);
      this.#open.delete(data.id);
      if (!data.error) return call?.resolve(data.value);
      const error = new Error(data.error.message);
      error.name = data.error.name;
      call?.reject(error);
    };
    this.#worker.onerror = (event) => {
      const error = new Error(event.message || `the worker of ${module} didn't start`);
      for (const { reject } of this.#open.values()) reject(error);
      this.#open.clear();
    };
  }

  /** Asks for a function of the module; `"progress"` among the arguments stands for `progress`. */
  call(name, args = [], { progress, transfer = [] } = {}) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
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
