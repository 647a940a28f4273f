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
  interface FastifyRequest {
    /** How policies, hooks and metrics name it; set when it is admitted. */
    operation: string;
    /** Absent for a caller without a limit. */
    rate: RateState | undefined;
  }
}

/** Every request in this scope asks for admission before its body is read. */
export function admitAll(scope: FastifyInstance, gateway: Gateway): void {
  scope.decorateRequest('operation', '');
  scope.decorateRequest('rate');
  scope.addHook('preParsing', (request, reply, _payload, proceed) => {
    request.operation = operationOf(request);
    const rate = gateway.admit(arrivalOf(request), principalOf(request), request.operation);
    if (!(rate instanceof Promise)) return go(request, reply, rate, proceed);
    rate.then(
      (state) => go(request, reply, state, proceed),
      (error: Error) => proceed(error),
    );
  });
}

function go(
  request: FastifyRequest,
  reply: FastifyReply,
  rate: RateState | undefined,
  proceed: () => void,
): void {
  request.rate = rate;
  if (rate !== undefined) void reply.headers(rateFields(rate));
  proceed();
}

/** How policies and metrics name a request: method and pattern. What holds for GET holds for HEAD. */
function operationOf(request: FastifyRequest): string {
  const { config, url = 'unmatched' } = request.exchange.matched;
  if (config.operation !== undefined) return config.operation(request);
  return `${request.method === 'HEAD' ? 'GET' : request.method} ${url}`;
}
