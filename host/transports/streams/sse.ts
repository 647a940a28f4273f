/**
 * Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) as an answer over
 * HTTP/1.1 and HTTP/2. Invariants: one whose reader takes nothing is cut, and nothing is kept for a reader
 * beyond what the connection itself holds.
 */
import type { ServerResponse } from 'node:http';
import type { NoaError } from '@noa/sdk/host';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { problem } from '../problem-document.ts';
import type { Connection, Connections, Holder } from './connections.ts';

export const SSE_TYPE = 'text/event-stream';
/** What a client waits before it connects again. */
const RETRY_MS = 2000;
const BEAT = ':\n\n';

export class SseStream implements Connection {
  readonly #response: ServerResponse;
  readonly #connections: Connections;
  #room: PromiseWithResolvers<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #ended = false;
  readonly #closed: () => void;

  /**
   * Begins the answer of this request. `closed` is called once, when the connection is gone or the stream
   * has ended. There is to be room among the connections.
   */
  constructor(
    connections: Connections,
    holder: Holder,
    reply: FastifyReply,
    { retry, closed }: { readonly retry: boolean; readonly closed: () => void },
  ) {
    this.#response = reply.raw;
    this.#connections = connections;
    this.#closed = closed;
    reply.hijack();
    reply.raw.on('close', () => {
      clearTimeout(this.#timer);
      connections.delete(this);
      this.#finish();
    });
    reply.raw.on('drain', () => {
      if (!this.#ended) clearTimeout(this.#timer);
      this.#room?.resolve();
      this.#room = undefined;
    });
    connections.add(this, holder);
    reply.raw.writeHead(200, {
      ...(reply.getHeaders() as Record<string, string>),
      'content-type': `${SSE_TYPE}; charset=utf-8`,
      'cache-control': 'no-store',
      'x-accel-buffering': 'no', // proxies that know it pass each frame on at once
    });
    void this.send(retry ? `retry: ${RETRY_MS}\n\n` : BEAT);
  }

  get closed(): boolean {
    return this.#ended;
  }

  send(frame: string | Uint8Array): Promise<void> | undefined {
    if (this.closed) return undefined;
    if (this.#response.write(frame)) return undefined;
    if (this.#room === undefined) {
      this.#room = Promise.withResolvers<void>();
      this.#timer = setTimeout(() => this.#response.destroy(), this.#connections.options.stallMs);
    }
    return this.#room.promise;
  }

  /** While there is no room the reader's own pace is watched. */
  beat(): void {
    if (this.#room === undefined) void this.send(BEAT);
  }

  end(reason?: NoaError): void {
    if (this.closed) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#response.destroy(), this.#connections.endMs);
    if (reason === undefined) this.#response.end();
    else this.#response.end(errorFrame(reason));
    this.#finish();
  }

  #finish(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#room?.resolve();
    this.#closed();
  }
}

/** `data` is JSON text, which holds no line breaks. */
export function frame(event: string | undefined, data: string, id?: number): string {
  const name = event === undefined ? '' : `event: ${event}\n`;
  return `${id === undefined ? '' : `id: ${id}\n`}${name}data: ${data}\n\n`;
}

export function errorFrame(error: NoaError): string {
  return frame('error', JSON.stringify(problem(error)));
}

/** Whether the caller asks for a stream by name. */
export function asksForStream(request: FastifyRequest): boolean {
  return accepts(request, SSE_TYPE);
}

/** Whether the `Accept` of a request names this media type. */
export function accepts({ headers }: FastifyRequest, type: string): boolean {
  const ranges = headers.accept?.split(',') ?? [];
  return ranges.some((range) => range.split(';')[0]?.trim().toLowerCase() === type);
}
