/**
 * A call of an export with `stream: true`, answered as server-sent events: a frame for each value, then
 * `result` or `error`. Invariants: the export emits no faster than its caller takes; when the caller leaves,
 * or its credential holds no more, the call is cancelled. What fails before the first value is answered as
 * any other request.
 */
import { type Json, NoaError } from '@noa/sdk/host';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Gateway } from '../../gateway/gateway.ts';
import type { Invocation, Outcome } from '../../kernel/invocation.ts';
import type { Frames } from '../dialect.ts';
import { asNoaError } from '../problem.ts';
import { type Connections, holderOf } from './connections.ts';
import { asksForStream, errorFrame, frame, SseStream } from './sse.ts';

export interface StreamedCallsOptions {
  readonly gateway: Gateway;
  readonly connections: Connections;
  readonly dispatch: (invocation: Invocation) => Promise<Outcome>;
}

/** `data` with an `id` for each value, then `result` or `error`. */
export const NATIVE_FRAMES: Frames = {
  value: (json, count) => frame(undefined, json, count),
  result: (json) => frame('result', json),
  error: errorFrame,
};

export class StreamedCalls {
  readonly #options: StreamedCallsOptions;

  constructor(options: StreamedCallsOptions) {
    this.#options = options;
  }

  /** Whether this call of the export is to be answered so. */
  takes(request: FastifyRequest, { export: name }: Invocation): boolean {
    const { serving } = request.exchange;
    return serving?.exports.get(name)?.spec.stream === true && asksForStream(request);
  }

  async answer(
    request: FastifyRequest,
    reply: FastifyReply,
    invocation: Invocation,
    frames: Frames = NATIVE_FRAMES,
  ): Promise<FastifyReply | undefined> {
    // A client that lost the connection comes again by itself; 204 has it stop (section 9.2.1 of the standard).
    if (request.headers['last-event-id'] !== undefined) return reply.code(204).send();
    const { connections, gateway, dispatch } = this.#options;
    const { scope } = request.routeOptions.config.contract ?? {};
    const holder = holderOf(gateway, request, scope);
    connections.assertRoom(holder.subject);
    const gone = new AbortController();
    const signal = AbortSignal.any([invocation.signal, gone.signal]);
    let stream: SseStream | undefined;
    const begin = (): SseStream => {
      clearTimeout(timer);
      if (signal.aborted) throw new NoaError('CANCELLED', 'the caller left');
      const closed = (): void => gone.abort();
      stream ??= new SseStream(connections, holder, reply, { retry: false, closed });
      return stream;
    };
    // A long silence looks like a dead connection to what stands between.
    const timer = setTimeout(() => signal.aborted || begin(), connections.options.beatMs);
    let count = 0;
    const emit = async (value: Json): Promise<void> => {
      count += 1;
      await begin().send(frames.value(JSON.stringify(value), count));
      if (signal.aborted) throw new NoaError('CANCELLED', 'the caller left');
    };
    try {
      const { value } = await dispatch({ ...invocation, signal, emit });
      void begin().send(frames.result(JSON.stringify(value))); // a plugin's own text may hold line breaks
    } catch (error) {
      if (stream === undefined) throw error;
      void stream.send(frames.error(asNoaError(error, request)));
    } finally {
      clearTimeout(timer);
    }
    stream?.end();
    return undefined;
  }
}
