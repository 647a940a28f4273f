/**
 * Hooks of plugins around requests over HTTP, WebSocket upgrades included. Invariant: they run once a
 * request has been admitted and before anything looks at its route or reads its body.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Gateway } from '../gateway/gateway.ts';
import { shownHeaders } from '../gateway/hook-headers.ts';
import { HookDenial, type HookedRequest, type HookHeaders, type Hooks } from '../gateway/hooks.ts';
import { arrivalOf, principalOf } from './identity.ts';
import { pathOf } from './problem.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by hooks, for the server behind a route. */
    hookHeaders: HookHeaders['request'] | undefined;
  }
}

/** To be called after whatever admits requests. */
export function hookAll(scope: FastifyInstance, gateway: Gateway, hooks: Hooks): void {
  scope.decorateRequest('hookHeaders');
  scope.addHook('preParsing', (request, reply, _payload, proceed) => {
    if (hooks.isIdle) return proceed();
    const principal = principalOf(request);
    const { operation } = request;
    const after = hooks.of('afterResponse', operation, principal);
    const before = hooks.of('beforeRequest', operation, principal);
    if (after.length === 0 && before.length === 0) return proceed();
    const { exchange, method } = request;
    const { id: requestId, trace, started, signal } = exchange;
    const hooked: HookedRequest = {
      operation,
      method,
      principal,
      requestId,
      traceId: trace.traceId,
      span: trace.span,
    };
    if (after.length > 0) {
      reply.raw.once('close', () => {
        const durationMs = Math.round(performance.now() - started);
        hooks.after(after, hooked, { status: statusOf(reply), durationMs });
      });
    }
    if (before.length === 0) return proceed();
    const facts = {
      path: pathOf(request.raw.url),
      query: queryOf(request),
      headers: shownHeaders(request.raw.headers),
    };
    hooks.before(before, hooked, facts, signal).then(
      ({ request: toServer, response }) => {
        request.hookHeaders = toServer;
        void reply.headers(response);
        proceed();
      },
      (error: Error) => {
        if (error instanceof HookDenial)
          gateway.noteHook(arrivalOf(request), principal, error.plugin);
        proceed(error);
      },
    );
  });
}

/** 499 for a caller that left, as in the log. */
function statusOf({ raw }: FastifyReply): number {
  return raw.writableFinished ? raw.statusCode : 499;
}

/** Of a name that is there more than once, the values with commas between them. */
function queryOf({ query }: FastifyRequest): { [name: string]: string } {
  const texts = Object.entries(query as { readonly [name: string]: string | string[] });
  return Object.fromEntries(texts.map(([name, value]) => [name, String(value)]));
}
