/**
 * Puts the gateway between a caller's credential and everything that looks at its route. Invariant: until
 * the gateway has admitted a request, its sender learns nothing of what is mounted, and a path where there
 * is nothing costs its rate all the same.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Gateway } from '../gateway/gateway.ts';
import { rateFields, type RateState } from '../gateway/limits.ts';
import { arrivalOf, principalOf } from './identity.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Names the operation where fastify's pattern says too little; must not throw. */
    operation?: (request: FastifyRequest) => string;
  }
}

/** Every request in this scope asks for admission before its body is read. */
export function admitAll(scope: FastifyInstance, gateway: Gateway): void {
  scope.addHook('preParsing', (request, reply, _payload, proceed) => {
    const rate = gateway.admit(arrivalOf(request), principalOf(request), operationOf(request));
    if (!(rate instanceof Promise)) return go(reply, rate, proceed);
    rate.then(
      (state) => go(reply, state, proceed),
      (error: Error) => proceed(error),
    );
  });
}

function go(reply: FastifyReply, rate: RateState | undefined, proceed: () => void): void {
  if (rate !== undefined) void reply.headers(rateFields(rate));
  proceed();
}

/** How policies and metrics name a request: method and pattern. What holds for GET holds for HEAD. */
export function operationOf(request: FastifyRequest): string {
  const { config, url = 'unmatched' } = request.routeOptions;
  if (config.operation !== undefined) return config.operation(request);
  return `${request.method === 'HEAD' ? 'GET' : request.method} ${url}`;
}
