/** Work that takes long gives its thread to others in between: whoever asks the host meanwhile waits for a slice of it. */
const SLICE_MS = 10;

export class Turns {
  #until = performance.now() + SLICE_MS;

  get isOver(): boolean {
    return performance.now() >= this.#until;
  }

  async next(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    this.#until = performance.now() + SLICE_MS;
  }
}
