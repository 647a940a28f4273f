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

/** Of the operations of routes, by method and pattern. */
type Names = Map<string, Map<string, string>>;

/** Every request in this scope asks for admission before its body is read. */
export function admitAll(scope: FastifyInstance, gateway: Gateway): void {
  scope.decorateRequest('operation', '');
  scope.decorateRequest('rate');
  const names: Names = new Map();
  scope.addHook('preParsing', (request, reply, _payload, proceed) => {
    request.operation = operationOf(request, names);
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

/**
 * How policies and metrics name a request: method and pattern. What holds for GET holds for HEAD. A route's
 * name is made once, for a text that is made anew is hashed anew wherever it is looked up.
 */
function operationOf(request: FastifyRequest, names: Names): string {
  const { config, url } = request.exchange.matched;
  if (config.operation !== undefined) return config.operation(request);
  const method = request.method === 'HEAD' ? 'GET' : request.method;
  // HTTP/2 has any text for a method; those of routes are few.
  if (url === undefined) return `${method} unmatched`;
  let ofMethod = names.get(method);
  if (ofMethod === undefined) names.set(method, (ofMethod = new Map<string, string>()));
  let name = ofMethod.get(url);
  if (name === undefined) ofMethod.set(url, (name = `${method} ${url}`));
  return name;
}
