/**
 * The body of a request on its way through: never more than its limit, taken from the caller as fast as
 * the upstream takes it. Invariant: a request's stream is never destroyed here, so that its sender can
 * still be answered.
 */
import { Readable } from 'node:stream';
import { NoaError } from '@noa/sdk/host';
import { clientLeft } from './failure.ts';

/** Longest body that is kept to be sent again. */
const KEPT_BYTES = 64 << 10;

export class Body {
  readonly #stream: Readable;
  readonly #limit: number;
  readonly #kept: Buffer[] = [];
  #size = 0;
  #wake: (() => void) | undefined;
  #isReleased = false;
  #isWhole = false;

  /** `limit` in bytes. */
  constructor(stream: Readable, limit: number) {
    this.#stream = stream;
    this.#limit = limit;
  }

  /** The next part is the caller's to send. */
  get isAwaited(): boolean {
    return this.#wake !== undefined;
  }

  /** All of it is here, to be sent as often as need be. */
  get isWhole(): boolean {
    return this.#isWhole;
  }

  /** Takes it in, if it is short. Rejects with PAYLOAD_TOO_LARGE or CANCELLED. */
  async keep(): Promise<void> {
    while (this.#size <= KEPT_BYTES) {
      const chunk = await this.#next();
      if (chunk === undefined) {
        this.#isWhole = true;
        return;
      }
      this.#kept.push(chunk);
    }
  }

  /** What is to be sent: once, or any number of times when it is whole. */
  read(): Buffer | Readable {
    if (this.#isWhole) return Buffer.concat(this.#kept);
    return Readable.from(this.#rest(), { objectMode: false });
  }

  /** Leaves the rest of the stream to others; false when there is none. */
  release(): boolean {
    this.#isReleased = true;
    this.#wake?.();
    return !this.#stream.readableEnded && !this.#stream.destroyed;
  }

  async *#rest(): AsyncGenerator<Buffer> {
    yield* this.#kept.splice(0);
    for (let chunk = await this.#next(); chunk !== undefined; chunk = await this.#next()) {
      yield chunk;
    }
  }

  /** Undefined at the end. */
  async #next(): Promise<Buffer | undefined> {
    const stream = this.#stream;
    for (;;) {
      if (this.#isReleased) throw clientLeft();
      const chunk = stream.read() as Buffer | null;
      if (chunk !== null) {
        this.#size += chunk.length;
        if (this.#size > this.#limit) throw tooLarge(this.#limit);
        return chunk;
      }
      if (stream.readableEnded) return undefined;
      if (stream.destroyed) throw clientLeft();
      await this.#change();
    }
  }

  #change(): Promise<void> {
    const stream = this.#stream;
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#wake = undefined;
        stream.off('readable', wake).off('end', wake).off('close', wake).off('error', wake);
        resolve();
      };
      this.#wake = wake;
      stream.on('readable', wake).on('end', wake).on('close', wake).on('error', wake);
    });
  }
}

export function tooLarge(limit: number): NoaError {
  const text = `the body is over the limit of ${limit} bytes (max_body_bytes of the route)`;
  return new NoaError('PAYLOAD_TOO_LARGE', text);
}
