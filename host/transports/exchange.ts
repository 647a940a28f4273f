/**
 * One request and its answer: its ids, whoever stands behind it, the signal that tells when the caller
 * is gone, and what is noted when it is over. Invariant: each exchange is observed exactly once, also
 * when the caller leaves before the answer, and labels take no text of the caller's.
 */
import type { ServerResponse } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Principal } from '../kernel/invocation.ts';
import type { Serving } from '../kernel/serving.ts';
import { pathOf } from './problem.ts';
import { readTrace, type Trace, traceparent } from './trace.ts';

/** nginx's status for a caller that left; it is in logs and metrics only, nobody can read it. */
const CLIENT_CLOSED = 499;
const MAX_LOGGED_PATH = 512;

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
  /** Without its query, which may hold secrets. */
  readonly path: string;
  readonly subject: string | undefined;
  readonly remoteAddress: string | undefined;
}

export class Exchange {
  readonly id: string;
  readonly trace: Trace;
  readonly started = performance.now();
  principal: Principal | undefined;
  /** The plugin that the request is for, once it is known to serve. */
  serving: Serving | undefined;
  /** The pattern of a plugin's route; others are known to fastify. */
  route: string | undefined;
  #controller: AbortController | undefined;
  #gone = false;

  constructor(id: string, trace: Trace) {
    this.id = id;
    this.trace = trace;
  }

  /** Aborts when the caller is gone before its answer is complete. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#gone) this.#controller.abort();
    }
    return this.#controller.signal;
  }

  leave(): void {
    this.#gone = true;
    this.#controller?.abort();
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
}

/** All exchanges of one server that are not over. */
export class Exchanges {
  readonly #options: ExchangesOptions;
  readonly #open = new Set<ServerResponse>();
  #draining = false;

  constructor(options: ExchangesOptions) {
    this.#options = options;
  }

  /** Answers whose last byte has not been handed to the system. */
  get open(): ReadonlySet<ServerResponse> {
    return this.#open;
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** From now on every answer ends its connection. */
  drain(): void {
    this.#draining = true;
    for (const response of this.#open) {
      if (!response.headersSent) response.setHeader('connection', 'close');
    }
  }

  begin(request: FastifyRequest, reply: FastifyReply): void {
    const exchange = new Exchange(request.id, readTrace(request.raw.headers['traceparent']));
    request.exchange = exchange;
    void reply.header('x-request-id', exchange.id);
    void reply.header('traceparent', traceparent(exchange.trace));
    if (this.#draining) void reply.header('connection', 'close');
    this.#open.add(reply.raw);
    // Of a response only `close` comes always: `finish` is missing when the caller left.
    reply.raw.on('close', () => this.#end(request, reply.raw, exchange));
  }

  #end(request: FastifyRequest, response: ServerResponse, exchange: Exchange): void {
    this.#open.delete(response);
    if (!response.writableFinished) exchange.leave();
    const { method = '', url, socket } = request.raw;
    const observation: HttpObservation = {
      method,
      route: exchange.route ?? request.routeOptions.url ?? 'unmatched',
      status: response.writableFinished ? response.statusCode : CLIENT_CLOSED,
      seconds: (performance.now() - exchange.started) / 1000,
      plugin: exchange.serving?.manifest.name,
    };
    this.#options.observe(observation);
    this.#options.access({
      ...observation,
      requestId: exchange.id,
      traceId: exchange.trace.traceId,
      path: pathOf(url).slice(0, MAX_LOGGED_PATH),
      subject: exchange.principal?.subject,
      remoteAddress: socket.remoteAddress,
    });
  }
}
