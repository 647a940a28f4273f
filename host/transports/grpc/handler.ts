/** What answers a method, and the way out of a stream: never more is written than its reader takes. */
import type { ServerWritableStream } from '@grpc/grpc-js';
import { NoaError } from '@noa/sdk/host';
import type { GrpcExchange } from './exchange.ts';

/** Rejects with NoaError. */
export type Answer = (exchange: GrpcExchange, request: object) => Promise<object>;

/** Resolves when the reader has room for the next message. Rejects when nobody waits any more. */
export type Send = (message: object) => Promise<void>;

export interface Streaming {
  /** It ends with the host or its reader alone, and so does not keep the host from stopping. */
  readonly isEndless: boolean;
  /** Rejects with NoaError. */
  readonly run: (exchange: GrpcExchange, request: object, send: Send) => Promise<void>;
}

export type Handler = Answer | Streaming;

/** A reader that takes nothing for `stallMs` is cut off. */
export function sender(
  call: ServerWritableStream<object, object>,
  exchange: GrpcExchange,
  stallMs: number,
): Send {
  const { signal } = exchange;
  return async (message) => {
    signal.throwIfAborted();
    if (call.write(message)) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      const rule = `nothing of the stream was taken for ${stallMs} ms`;
      exchange.abandon(new NoaError('RESOURCE_EXHAUSTED', rule));
    }, stallMs);
    const done = () => resolve();
    call.once('drain', done);
    signal.addEventListener('abort', done);
    await promise;
    clearTimeout(timer);
    call.off('drain', done);
    signal.removeEventListener('abort', done);
    signal.throwIfAborted();
  };
}
