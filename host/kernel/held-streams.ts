/**
 * What drivers answer bit by bit, held for the one call that asked: the plugin takes the items by an id that
 * nobody can guess, at its own pace. Invariants: a stream ends with its call; what waits of it is bounded, and
 * its source waits then; each failure is told once, after the items that came before it; and each time that
 * items are taken, the right to what was asked for is there still.
 */
import { NoaError } from '@noa/sdk/host';

/** Open at one time in one call. */
const MAX_STREAMS = 16;
const MAX_ITEMS = 256;
const MAX_BYTES = 256 << 10;

export interface Taken {
  readonly items: readonly unknown[];
  /** Nothing comes after these. */
  readonly done: boolean;
}

export class HeldStreams {
  readonly #streams = new Map<string, HeldStream>();
  readonly #newId: () => string;
  #over = false;

  constructor(newId: () => string) {
    this.#newId = newId;
  }

  /**
   * Runs `open` with a signal that ends with the stream. `observe` is told each item as it comes, and
   * `authorize` throws when no more may be taken. Throws RESOURCE_EXHAUSTED when the call has too many open.
   */
  async hold(
    open: (signal: AbortSignal) => Promise<unknown>,
    observe: (item: unknown) => void,
    authorize: () => void,
  ): Promise<unknown> {
    if (this.#streams.size >= MAX_STREAMS) {
      const text = `a call has at most ${MAX_STREAMS} streams open: close one`;
      throw new NoaError('RESOURCE_EXHAUSTED', text);
    }
    const end = new AbortController();
    const output = await open(end.signal);
    if (!isIterable(output)) return output;
    const stream = new HeldStream(output, end, observe, authorize);
    if (this.#over) {
      stream.end();
      throw new NoaError('CANCELLED', 'the call is over, and so are its streams');
    }
    const id = this.#newId();
    this.#streams.set(id, stream);
    return { stream: id };
  }

  /** The items that are there, at least one unless it is the end. Rejects with NOT_FOUND, or what it failed with. */
  async next(id: string, signal: AbortSignal): Promise<Taken> {
    const stream = this.#streams.get(id);
    if (stream === undefined) {
      const text = 'stream: this call has no such stream, or it has ended';
      throw new NoaError('NOT_FOUND', text);
    }
    try {
      const taken = await stream.take(signal);
      if (taken.done) this.#streams.delete(id);
      return taken;
    } catch (error) {
      this.close(id);
      throw error;
    }
  }

  /** Whether it was open. */
  close(id: string): boolean {
    this.#streams.get(id)?.end();
    return this.#streams.delete(id);
  }

  end(): void {
    this.#over = true;
    for (const stream of this.#streams.values()) stream.end();
    this.#streams.clear();
  }
}

class HeldStream {
  readonly #iterator: AsyncIterator<unknown, unknown>;
  readonly #end: AbortController;
  readonly #items: { item: unknown; bytes: number }[] = [];
  readonly #authorize: () => void;
  #bytes = 0;
  #state: 'open' | 'done' | { readonly error: unknown } = 'open';
  #wake = (): void => undefined;
  #room = (): void => undefined;

  constructor(
    source: AsyncIterable<unknown>,
    end: AbortController,
    observe: (item: unknown) => void,
    authorize: () => void,
  ) {
    this.#iterator = source[Symbol.asyncIterator]();
    this.#end = end;
    this.#authorize = authorize;
    void this.#read(observe);
  }

  async #read(observe: (item: unknown) => void): Promise<void> {
    try {
      for (;;) {
        const step: IteratorResult<unknown, unknown> = await this.#iterator.next();
        if (this.#state !== 'open') return;
        if (step.done === true) break;
        const { value } = step;
        observe(value);
        const bytes = JSON.stringify(value).length;
        this.#items.push({ item: value, bytes });
        this.#bytes += bytes;
        this.#wake();
        while (this.#state === 'open' && this.#isFull) {
          await new Promise<void>((resolve) => (this.#room = resolve));
        }
      }
      this.#state = 'done';
    } catch (error) {
      if (this.#state === 'open') this.#state = { error };
    }
    this.#wake();
  }

  get #isFull(): boolean {
    return this.#items.length >= MAX_ITEMS || this.#bytes >= MAX_BYTES;
  }

  async take(signal: AbortSignal): Promise<Taken> {
    while (this.#items.length === 0 && this.#state === 'open') {
      await new Promise<void>((resolve, reject) => {
        const leave = (): void => reject(new NoaError('CANCELLED', 'the caller went away'));
        signal.addEventListener('abort', leave, { once: true });
        this.#wake = () => {
          signal.removeEventListener('abort', leave);
          resolve();
        };
      });
    }
    this.#authorize();
    if (this.#items.length === 0 && typeof this.#state === 'object') throw this.#state.error;
    const items = this.#items.splice(0).map(({ item }) => item);
    this.#bytes = 0;
    this.#room();
    return { items, done: this.#state === 'done' };
  }

  /** The source is told twice: by its signal where it waits, and by its iterator. */
  end(): void {
    if (this.#state === 'open') this.#state = 'done';
    this.#end.abort();
    this.#room();
    this.#wake();
    // What it still fails with concerns nobody.
    Promise.resolve(this.#iterator.return?.()).catch(() => undefined);
  }
}

function isIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === 'object' && value !== null && Symbol.asyncIterator in value;
}
