/**
 * Takes up large work one piece a turn of the event loop, first come, first served, so that what else the
 * host's thread has to do waits for one piece at most. What may wait here is bounded by those who add: a
 * plugin has one large request out at a time a thread (requests.ts).
 */
export class Intake {
  readonly #waiting: (() => void)[] = [];

  add(work: () => void): void {
    this.#waiting.push(work);
    if (this.#waiting.length === 1) setImmediate(() => this.#next());
  }

  #next(): void {
    this.#waiting[0]?.();
    this.#waiting.shift();
    if (this.#waiting.length > 0) setImmediate(() => this.#next());
  }
}
