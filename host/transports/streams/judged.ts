/**
 * A call that comes within a WebSocket is judged as a request of its own: identity, scope, policy, rate and
 * the hooks of plugins, under the operation that the same call has over HTTP.
 */
import { ERROR_KINDS, type ErrorCode } from '@noa/sdk/host';
import type { FastifyRequest } from 'fastify';
import type { Gateway } from '../../gateway/gateway.ts';
import { shownHeaders } from '../../gateway/hook-headers.ts';
import { HookDenial, type HookedRequest, type Hooks } from '../../gateway/hooks.ts';
import type { Principal } from '../../kernel/chain.ts';
import { arrivalOf } from '../identity.ts';

export interface JudgedCall {
  /** Method and pattern. */
  readonly operation: string;
  readonly path: string;
  readonly scope: string;
  readonly requestId: string;
  readonly signal: AbortSignal;
}

export interface Judgement {
  readonly principal: Principal;
  /** To be told how it went. */
  readonly end: (code: ErrorCode | 'OK') => void;
}

/** `request` is the one that opened the connection. Rejects with what refuses the call. */
export async function judge(
  { gateway, hooks }: { readonly gateway: Gateway; readonly hooks: Hooks },
  request: FastifyRequest,
  { operation, path, scope, requestId, signal }: JudgedCall,
): Promise<Judgement> {
  const started = performance.now();
  const { trace } = request.exchange;
  const method = 'POST';
  const arrival = { ...arrivalOf(request), method, path, requestId };
  const principal = await gateway.identify(arrival);
  gateway.requireScope(arrival, principal, scope);
  await gateway.admit(arrival, principal, operation);
  const { traceId, span } = trace;
  const hooked: HookedRequest = { operation, method, principal, requestId, traceId, span };
  const after = hooks.of('afterResponse', operation, principal);
  const end = (code: ErrorCode | 'OK'): void => {
    if (after.length === 0) return;
    const status = code === 'OK' ? 200 : ERROR_KINDS[code].status;
    hooks.after(after, hooked, { status, durationMs: Math.round(performance.now() - started) });
  };
  const before = hooks.of('beforeRequest', operation, principal);
  if (before.length === 0) return { principal, end };
  try {
    const headers = shownHeaders(request.raw.headers);
    await hooks.before(before, hooked, { path, query: {}, headers }, signal);
    return { principal, end };
  } catch (error) {
    if (error instanceof HookDenial) gateway.noteHook(arrival, principal, error.plugin);
    throw error;
  }
}
