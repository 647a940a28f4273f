/**
 * What the process of a plugin says on its standard error. Invariants: the end of it is kept, of bounded
 * length; more than `BYTES_PER_SECOND` is a breach, so that reading it never takes the host's time.
 */
import { FrameError } from './frames.ts';

const KEPT_CHARS = 2000;
/** An honest process writes some warnings, or the report of its end. */
const BYTES_PER_SECOND = 1 << 20;

export class StandardError {
  #text = '';
  #second = 0;
  #bytes = 0;

  get text(): string {
    return this.#text.trim();
  }

  /** Answers the breach when too much came within a second. */
  add(chunk: Buffer): FrameError | undefined {
    this.#text = `${this.#text}${chunk.subarray(-KEPT_CHARS).toString('utf8')}`.slice(-KEPT_CHARS);
    const second = Math.floor(performance.now() / 1000);
    if (second !== this.#second) this.#bytes = 0;
    this.#second = second;
    this.#bytes += chunk.length;
    if (this.#bytes <= BYTES_PER_SECOND) return undefined;
    return new FrameError(`over ${BYTES_PER_SECOND} bytes a second on stderr`);
  }
}
