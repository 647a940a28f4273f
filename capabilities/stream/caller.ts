/**
 * The driver of `stream`: values go to whoever takes those of the call that emits, and the items of streams
 * come from where the host holds them for that call.
 */
import { type Driver, type Json, NoaError } from '@noa/sdk/host';

export interface StreamOptions {
  /** What takes the values of the call with this chain; undefined for an export that is no stream. */
  readonly consumer: (chain: unknown) => ((value: Json) => Promise<void>) | undefined;
  /** The streams that were opened in the call with this chain. */
  readonly streams: (chain: unknown) => Held;
}

export interface Held {
  next(id: string, signal: AbortSignal): Promise<object>;
  close(id: string): boolean;
}

export function createStreamDriver({ consumer, streams }: StreamOptions): Driver {
  return {
    async invoke(operation, input, { chain, signal }) {
      if (operation !== 'emit') {
        const { stream } = input as { readonly stream: string }; // as the door has judged it
        const held = streams(chain);
        return operation === 'next' ? held.next(stream, signal) : { closed: held.close(stream) };
      }
      const emit = consumer(chain);
      if (emit === undefined) {
        const text = 'stream.emit: the export is no stream; give it "stream": true in plugin.json';
        throw new NoaError('INVALID_ARGUMENT', text);
      }
      await emit((input as { readonly value: Json }).value); // as the door has judged it
      return {};
    },
    async check() {},
    async close() {},
  };
}
