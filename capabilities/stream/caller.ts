/** The driver of `stream`: values go to whoever takes those of the call that emits. */
import { type Driver, type Json, NoaError } from '@noa/sdk/host';

export interface StreamOptions {
  /** What takes the values of the call with this chain; undefined for an export that is no stream. */
  readonly consumer: (chain: unknown) => ((value: Json) => Promise<void>) | undefined;
}

export function createStreamDriver({ consumer }: StreamOptions): Driver {
  return {
    async invoke(_operation, input, { chain }) {
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
