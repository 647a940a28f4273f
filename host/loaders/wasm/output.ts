/** Binary output in one buffer that grows: what is written is not kept in parts until the end. */
import { leb } from './reader.ts';

/** A length that is written before it is known takes the longest form of 32 bits. */
const LENGTH_BYTES = 5;

export class Output {
  #bytes: Uint8Array<ArrayBuffer>;
  #length = 0;

  constructor(expectedBytes: number) {
    this.#bytes = new Uint8Array(expectedBytes);
  }

  add(part: ArrayLike<number>): void {
    const end = this.#length + part.length;
    if (end > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(end, 2 * this.#bytes.length));
      larger.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = larger;
    }
    this.#bytes.set(part, this.#length);
    this.#length = end;
  }

  /** What `write` adds, behind its length. */
  sized(write: () => void): void {
    const at = this.#length;
    this.add(new Uint8Array(LENGTH_BYTES));
    write();
    const digits = leb(this.#length - at - LENGTH_BYTES);
    for (let index = 0; index < LENGTH_BYTES; index += 1) {
      const more = index < LENGTH_BYTES - 1 ? 0x80 : 0;
      this.#bytes[at + index] = ((digits[index] ?? 0) & 0x7f) | more;
    }
  }

  /** All of it. */
  bytes(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.#length);
  }
}
