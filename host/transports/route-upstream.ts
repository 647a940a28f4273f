/**
 * Paths that lead to other servers: whatever no path of this host takes is looked for among the routes of
 * the configuration, and what is there goes through as it comes, in both directions. Invariant: a body
 * moves no faster than whoever reads it, and neither side waits for one that has left.
 */
import type { ServerResponse } from 'node:http';
import type { Readable } from 'node:stream';
import { NoaError } from '@noa/sdk/host';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Gateway } from '../gateway/gateway.ts';
import { Body, tooLarge } from '../gateway/upstream/body.ts';
import { BadGatewayError } from '../gateway/upstream/failure.ts';
import { forward, type LiveRoute } from '../gateway/upstream/forward.ts';
import { requestHeaders, responseHeaders } from '../gateway/upstream/headers.ts';
import type { UpstreamRoutes } from '../gateway/upstream/routes.ts';
import { targetBelow } from '../gateway/upstream/target.ts';
import { dropRest } from './body.ts';
import { endConnection } from './exchange.ts';
import { arrivalOf, principalOf } from './identity.ts';
import { pathOf } from './problem.ts';
import { refuseMethod } from './resource.ts';
import { traceparent } from './trace.ts';

export interface UpstreamOptions {
  readonly gateway: Gateway;
  readonly upstreams: UpstreamRoutes;
  /** Longest time in which a caller takes nothing of an answer. */
  readonly stallMs: number;
  /** Longest segment of a path that names something of this host. */
  readonly maxParameter: number;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Set where a path leads to another server. */
    upstream: LiveRoute | undefined;
  }
}

/** ANY /…, for what no other route takes. */
export function registerUpstreams(parent: FastifyInstance, options: UpstreamOptions): void {
  const { upstreams } = options;
  parent.decorateRequest('upstream');
  parent.register((scope, _none, done) => {
    // Bodies of any type, unread: they are streamed.
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', (_request, _payload, next) => next(null));
    scope.route({
      method: scope.supportedMethods,
      url: '/*',
      config: { contract: null, takes: '*/*', operation },
      onRequest: (request, _reply, next) => {
        request.upstream = upstreams.match(pathOf(request.raw.url));
        request.exchange.route = labelOf(request.upstream);
        next();
      },
      preParsing: (request, reply, _payload, next) => {
        admitted(options, request, reply);
        if (!reply.sent) next();
      },
      // Of what breaks off before its first byte; the failure has been counted and logged.
      errorHandler: (error, { upstream }) => {
        if (error instanceof NoaError || upstream === undefined) throw error;
        throw new BadGatewayError(upstream.config.name);
      },
      handler: (request, reply) => proxy(request, reply, options.stallMs),
    });
    done();
  });
}

/** PERMISSION_DENIED for the bearer of a capability token, which opens nothing but plugins. */
export class BearerError extends NoaError {
  constructor() {
    const text = 'a capability token is for exports of plugins, and for no server behind this one';
    super('PERMISSION_DENIED', text);
  }
}

function labelOf(route: LiveRoute | undefined): string {
  if (route === undefined) return 'unmatched';
  const { path } = route.config;
  return path === '/' ? '/*' : `${path}/*`;
}

function operation({ method, upstream }: FastifyRequest): string {
  return `${method === 'HEAD' ? 'GET' : method} ${labelOf(upstream)}`;
}

/** Throws what keeps the caller from this route; may answer itself. */
function admitted(
  { gateway, maxParameter }: UpstreamOptions,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  const { upstream, method } = request;
  if (upstream === undefined) {
    // Which is why fastify has not found it.
    if (
      pathOf(request.raw.url)
        .split('/')
        .some(({ length }) => length > maxParameter)
    ) {
      throw new NoaError('INVALID_ARGUMENT', 'a segment of the path is too long for this route');
    }
    throw new NoaError('NOT_FOUND', `there is nothing at this path for ${method}`);
  }
  if (principalOf(request).token !== undefined) {
    throw new BearerError();
  }
  const { scope, methods } = upstream.config;
  if (scope !== undefined) gateway.requireScope(arrivalOf(request), principalOf(request), scope);
  const taken = methods.includes('GET') ? [...methods, 'HEAD'] : methods;
  if (!taken.includes(method)) refuseMethod(request, reply, taken);
}

async function proxy(
  request: FastifyRequest,
  reply: FastifyReply,
  stallMs: number,
): Promise<FastifyReply> {
  const { raw, exchange, method } = request;
  const route = request.upstream as LiveRoute; // set before the body was looked at
  const { config } = route;
  const target = targetBelow(targetOf(raw.url), config.path, config.strip_prefix);
  const headers = requestHeaders(
    raw.headers,
    {
      requestId: exchange.id,
      traceId: exchange.trace.traceId,
      traceparent: traceparent(exchange.trace),
      principal: principalOf(request),
      remoteAddress: raw.socket.remoteAddress,
      host: request.host,
      protocol: request.protocol,
      httpVersion: raw.httpVersion,
    },
    config,
    request.hookHeaders,
  );
  const body = hasBody(request) ? new Body(raw, config.max_body_bytes) : undefined;
  try {
    if (Number(raw.headers['content-length']) > config.max_body_bytes) {
      throw tooLarge(config.max_body_bytes);
    }
    const { signal, trace } = exchange;
    const { span } = trace;
    const answer = await forward(route, { method, target, headers, body, signal, span }, now);
    // What is left of the request would be read as the next one.
    if (body !== undefined && !raw.readableEnded) endConnection(reply.raw);
    const written = (name: string) => reply.hasHeader(name);
    void reply.code(answer.statusCode).headers(responseHeaders(answer.headers, config, written));
    guardStall(answer.body, reply.raw, stallMs);
    return await reply.send(answer.body);
  } catch (error) {
    if (body?.release()) {
      endConnection(reply.raw);
      await dropRest(raw);
    }
    throw error;
  }
}

const now = (): number => performance.now();

/** In origin form, without a fragment. */
function targetOf(url = '/'): string {
  const whole = url.split('#', 1)[0] ?? '';
  const query = whole.indexOf('?');
  return query < 0 ? pathOf(whole) : pathOf(whole) + whole.slice(query);
}

/** RFC 9112 section 6.3; HTTP/2 tells by the stream alone. */
function hasBody({ raw, method }: FastifyRequest): boolean {
  const { 'content-length': length, 'transfer-encoding': encoding } = raw.headers;
  if (raw.httpVersionMajor === 2 && length === undefined) {
    return method !== 'GET' && method !== 'HEAD';
  }
  return encoding !== undefined || (length !== undefined && length !== '0');
}

/** Cuts off a caller that takes nothing of its answer for so long: a server waits behind it. */
function guardStall(source: Readable, response: ServerResponse, stallMs: number): void {
  let timer: NodeJS.Timeout | undefined;
  const move = (): void => clearTimeout(timer);
  source.on('pause', () => {
    clearTimeout(timer);
    if (!response.destroyed) timer = setTimeout(() => response.destroy(), stallMs);
  });
  response.on('drain', move).on('close', move);
}
