/**
 * One request and its answer: its ids, whoever stands behind it, the signal that tells when the caller
 * is gone, and what is noted when it is over. Invariant: each exchange is observed exactly once, also
 * when the caller leaves before the answer, and labels take no text of the caller's.
 */
import type { ServerResponse } from 'node:http';
import { Http2ServerResponse } from 'node:http2';
import type { Span } from '@noa/sdk/host';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Arrival } from '../gateway/arrival.ts';
import type { Principal } from '../kernel/chain.ts';
import type { Serving } from '../kernel/serving.ts';
import type { Tracer } from '../kernel/tracing.ts';
import { pathOf } from './problem.ts';
import { beginTrace, type Trace, traceparent } from './trace.ts';

/** nginx's status for a caller that left; it is in logs and metrics only, nobody can read it. */
const CLIENT_CLOSED = 499;
const MAX_LOGGED_PATH = 512;
const UNMATCHED = 'unmatched';

/** For metrics. */
export interface HttpObservation {
  readonly method: string;
  /** The pattern that matched, never the path itself. */
  readonly route: string;
  readonly status: number;
  readonly seconds: number;
  /** Only of a plugin that serves. */
  readonly plugin: string | undefined;
}

/** For the access log: one for each request. */
export interface AccessEntry extends HttpObservation {
  readonly requestId: string;
  readonly traceId: string;
  /** Of a request that is traced. */
  readonly spanId: string | undefined;
  /** Without its query, which may hold secrets. */
  readonly path: string;
  readonly subject: string | undefined;
  readonly remoteAddress: string | undefined;
}

export class Exchange {
  readonly id: string;
  readonly trace: Trace;
  readonly response: ServerResponse;
  /** Kept from the start: a stream of HTTP/2 that is over knows its connection no more. */
  readonly remoteAddress: string | undefined;
  /** What fastify tells of the route: it makes a new object each time it is asked. */
  readonly matched: FastifyRequest['routeOptions'];
  /** Set when it is first asked for; see `arrivalOf`. */
  arrival: Arrival | undefined;
  /** Its place among the open ones. */
  index: number;
  readonly started = performance.now();
  principal: Principal | undefined;
  /** The plugin that the request is for, once it is known to serve. */
  serving: Serving | undefined;
  /** The pattern of a plugin's route; others are known to fastify. */
  route: string | undefined;
  /** The connection is a WebSocket's now, and the answer has the status 101. */
  upgraded = false;
  #controller: AbortController | undefined;
  #gone = false;
  #outlives = false;

  constructor(
    id: string,
    trace: Trace,
    request: FastifyRequest,
    reply: FastifyReply,
    index: number,
  ) {
    this.id = id;
    this.trace = trace;
    this.response = reply.raw;
    this.remoteAddress = request.raw.socket.remoteAddress;
    this.matched = request.routeOptions;
    this.index = index;
  }

  /** Aborts when the caller is gone before its answer is complete. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#gone && !this.#outlives) this.#controller.abort();
    }
    return this.#controller.signal;
  }

  leave(): void {
    this.#gone = true;
    if (!this.#outlives) this.#controller?.abort();
  }

  /** From now on it goes on when its caller leaves. */
  outlive(): void {
    this.#outlives = true;
  }
}

declare module 'fastify' {
  interface FastifyRequest {
    exchange: Exchange;
  }
}

export interface ExchangesOptions {
  readonly observe: (observation: HttpObservation) => void;
  readonly access: (entry: AccessEntry) => void;
  readonly tracer?: Tracer | undefined;
}

/**
 * All exchanges of one server that are not over. They stand in an array and not in a Set: a Set makes a
 * new table every few dozen changes, and the tables it leaves behind keep whatever was in them alive
 * until the next full collection (measured: 40 % of what a request allocates).
 */
export class Exchanges {
  readonly #options: ExchangesOptions;
  readonly #open: Exchange[] = [];
  #draining = false;

  constructor(options: ExchangesOptions) {
    this.#options = options;
  }

  /** Answers of HTTP/1.1 whose last byte has not been handed to the system. */
  *open(): Generator<ServerResponse> {
    for (const { response } of this.#open) {
      if (response.req.httpVersionMajor === 1) yield response;
    }
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** From now on every answer ends its connection. */
  drain(): void {
    this.#draining = true;
    for (const response of this.open()) {
      if (!response.headersSent) endConnection(response);
    }
  }

  begin(request: FastifyRequest, reply: FastifyReply): void {
    const { method = '', headers } = request.raw;
    const trace = beginTrace(headers['traceparent'], this.#options.tracer, known(method));
    // Unless the caller gave it a name, a request is called by its span.
    const id = request.id === '' ? trace.spanId : request.id;
    const exchange = new Exchange(id, trace, request, reply, this.#open.length);
    request.exchange = exchange;
    void reply.header('x-request-id', exchange.id);
    void reply.header('traceparent', traceparent(exchange.trace));
    // Behind an upgrade that it passes over, Node's parser may drop what came in the same packet: whatever
    // was answered next would be taken for the answer to that.
    if (this.#draining || headers.upgrade !== undefined) endConnection(reply.raw);
    this.#open.push(exchange);
    // Of a response only `close` comes always: `finish` is missing when the caller left.
    reply.raw.on('close', () => this.#end(request, exchange));
  }

  #end(request: FastifyRequest, exchange: Exchange): void {
    this.#forget(exchange);
    const { response } = exchange;
    const isDelivered = wasDelivered(response);
    if (!isDelivered) exchange.leave();
    const { method = '', url } = request.raw;
    const entry: AccessEntry = {
      method,
      route: exchange.route ?? exchange.matched.url ?? UNMATCHED,
      status: isDelivered || exchange.upgraded ? response.statusCode : CLIENT_CLOSED,
      seconds: (performance.now() - exchange.started) / 1000,
      plugin: exchange.serving?.manifest.name,
      requestId: exchange.id,
      traceId: exchange.trace.traceId,
      spanId: exchange.trace.span?.spanId,
      path: (exchange.arrival?.path ?? pathOf(url)).slice(0, MAX_LOGGED_PATH),
      subject: exchange.principal?.subject,
      remoteAddress: exchange.remoteAddress,
    };
    this.#options.observe(entry);
    this.#options.access(entry);
    if (exchange.trace.span !== undefined) endSpan(exchange.trace.span, entry);
  }

  /** The last one takes its place. */
  #forget(exchange: Exchange): void {
    const last = this.#open.pop();
    if (last === undefined || last === exchange) return;
    this.#open[exchange.index] = last;
    last.index = exchange.index;
  }
}

/** Has the connection end with this answer. HTTP/2 has no such header, and ends its connections itself. */
export function endConnection(response: ServerResponse): void {
  if (response.req.httpVersionMajor === 1) response.setHeader('connection', 'close');
}

/** Whether the last byte went out. A stream of HTTP/2 that its caller resets says that it is finished too. */
function wasDelivered(response: ServerResponse | Http2ServerResponse): boolean {
  if (!response.writableEnded || !response.writableFinished) return false;
  return !(response instanceof Http2ServerResponse) || response.stream.rstCode === 0;
}

/** Methods that need no other name in a trace (OpenTelemetry's conventions for HTTP). */
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];

function known(method: string): string {
  return METHODS.includes(method) ? method : '_OTHER';
}

function endSpan(span: Span, { route, status, plugin, path, ...entry }: AccessEntry): void {
  const method = known(entry.method);
  const isMatched = route !== UNMATCHED;
  if (isMatched) span.rename(`${method} ${route}`);
  span.set({
    'http.request.method': method,
    'url.path': path,
    'http.response.status_code': status,
    'noa.request_id': entry.requestId,
    ...(isMatched && { 'http.route': route }),
    ...(plugin !== undefined && { 'noa.plugin': plugin }),
  });
  // Of a server it is no failure that a request was wrong, or its caller went away.
  span.end(status >= 500 ? String(status) : undefined);
}
