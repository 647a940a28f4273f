/** Who stands behind an HTTP request, what it names in its path, and what the gateway is told of it. */
import type { TLSSocket } from 'node:tls';
import { NoaError } from '@noa/sdk/host';
import type { FastifyRequest } from 'fastify';
import type { Arrival } from '../gateway/arrival.ts';
import type { Principal } from '../kernel/chain.ts';
import { pathOf } from './problem.ts';

/** Made once for each request. */
export function arrivalOf(request: FastifyRequest): Arrival {
  const { exchange } = request;
  exchange.arrival ??= readArrival(request);
  return exchange.arrival;
}

function readArrival({ raw, exchange }: FastifyRequest): Arrival {
  // Node's word on it; the header alone may come on any request.
  const { upgrade } = raw as typeof raw & { readonly upgrade?: boolean };
  return {
    transport: upgrade === true ? 'websocket' : 'http',
    requestId: exchange.id,
    traceId: exchange.trace.traceId,
    method: raw.method ?? '',
    path: pathOf(raw.url),
    authorization: raw.headers.authorization,
    apiKey: apiKeyOf(raw.headers['x-api-key']),
    remoteAddress: exchange.remoteAddress,
    clientCertificate: (raw.socket as Partial<TLSSocket>).authorized === true,
  };
}

/** Node joins fields of this name with a comma, which no key has. */
function apiKeyOf(field: string | string[] | undefined): string | undefined {
  return Array.isArray(field) ? field.join() : field;
}

/** The principal of an authenticated request. */
export function principalOf(request: FastifyRequest): Principal {
  const { principal } = request.exchange;
  if (principal === undefined) throw new NoaError('INTERNAL', 'the route asks for no credential');
  return principal;
}

/** The subject that a change is recorded under. */
export function actorOf(request: FastifyRequest): string {
  return principalOf(request).subject;
}

/** Part of the path. Throws INVALID_ARGUMENT for what nothing here is ever called. */
export function nameIn(request: FastifyRequest, parameter: string): string {
  const value = (request.params as { [name: string]: string })[parameter] ?? '';
  if (/^[\w.-]+$/.test(value)) return value;
  const rule = `the path: ${parameter} holds letters, digits and . _ - alone`;
  throw new NoaError('INVALID_ARGUMENT', rule);
}
