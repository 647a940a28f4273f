/**
 * What an export with `stream: true` emits before it answers. Invariants: values reach the consumer in
 * their order and none after the call's end; where nobody takes them one by one they become part of the
 * answer, `{items, result}`, within a bound.
 */
import { type Json, NoaError } from '@noa/sdk/host';
import { isChain } from './chain.ts';
import type { HeldStreams } from './held-streams.ts';
import type { Outcome } from './invocation.ts';

/** Resolves when the consumer has room for the next value. Rejects with CANCELLED when it left. */
export type Emit = (value: Json) => Promise<void>;

/** Values that an answer holds at most, whatever their size. */
const MAX_ITEMS = 10_000;

export class Emission {
  readonly #consumer: Emit | undefined;
  readonly #maxBytes: number;
  readonly #items: Json[] = [];
  readonly #texts: string[] = [];
  #bytes = 0;
  #over = false;

  /** `maxBytes` bounds the JSON of all that is collected when there is no consumer. */
  constructor(consumer: Emit | undefined, maxBytes: number) {
    this.#consumer = consumer;
    this.#maxBytes = maxBytes;
  }

  readonly emit: Emit = async (value) => {
    if (this.#over) throw new NoaError('CANCELLED', 'the call is over, and so is its stream');
    if (this.#consumer === undefined) this.#collect(value);
    else await this.#consumer(value);
  };

  #collect(value: Json): void {
    const text = JSON.stringify(value);
    this.#bytes += Buffer.byteLength(text) + 1;
    if (this.#bytes > this.#maxBytes || this.#items.length === MAX_ITEMS) {
      const bound = `${MAX_ITEMS} values and limits.maxOutputBytes, ${this.#maxBytes} bytes`;
      const message = `the stream has more than an answer holds (${bound}): call it as a stream`;
      throw new NoaError('RESOURCE_EXHAUSTED', message);
    }
    this.#items.push(value);
    this.#texts.push(text);
  }

  /** The answer to the caller, with what it was not given before. */
  answer(result: Outcome): Outcome {
    if (this.#consumer !== undefined) return result;
    return {
      value: { items: this.#items, result: result.value },
      text: `{"items":[${this.#texts.join(',')}],"result":${result.text}}`,
    };
  }

  end(): void {
    this.#over = true;
  }
}

/** The streams of the call that the broker put beside a driver's call. */
export function streamsOf(chain: unknown): HeldStreams {
  if (!isChain(chain)) throw new TypeError('the call carries no chain');
  return chain.streams;
}

/** Of the call that the broker put beside a driver's call. */
export function emitOf(chain: unknown): Emit | undefined {
  return isChain(chain) ? chain.emit : undefined;
}
