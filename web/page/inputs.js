// The attention inputs, a file for each layer.

/** By the number that the page has for a layer. */
const FILES = ["layer0.bin", "layer25.bin"];

/** Fetches what is asked for, and gives it to workers before they are asked for what follows from it. */
export class Inputs {
  #begun;
  #bytes = new Map();
  #loaded = new Map();

  /** `begun` are answers with their bytes that are on their way already, by layer. */
  constructor(begun) {
    this.#begun = begun;
  }

  async #fetch(layer) {
    const fetched = async () => {
      const answer = await fetch(FILES[layer]);
      return { answer, bytes: await answer.arrayBuffer() };
    };
    const { answer, bytes } = await (this.#begun[layer] ?? fetched());
    if (!answer.ok) throw new Error(`the attention inputs aren't there (${answer.status})`);
    return new Uint8Array(bytes);
  }

  async #given(layer) {
    if (!this.#bytes.has(layer)) this.#bytes.set(layer, this.#fetch(layer));
    try {
      return await this.#bytes.get(layer);
    } catch (error) {
      // Who asks again tries again.
      this.#begun[layer] = null;
      this.#bytes.delete(layer);
      throw error;
    }
  }

  /** What a worker's function gives that reads the inputs of a layer. */
  async call(computing, layer, name, args, more) {
    const bytes = await this.#given(layer);
    if (!this.#loaded.has(computing)) this.#loaded.set(computing, new Map());
    const loaded = this.#loaded.get(computing);
    // A worker begins with calls in their order: it has the inputs before it begins with the next.
    if (!loaded.has(layer)) loaded.set(layer, computing.call("load", [layer, bytes]));
    const [value] = await Promise.all([computing.call(name, args, more), loaded.get(layer)]);
    return value;
  }
}
