/** Hooks of plugins around gRPC calls, once these are admitted and before a message is read. */
import type { Metadata } from '@grpc/grpc-js';
import type { Gateway } from '../../gateway/gateway.ts';
import { shownHeaders } from '../../gateway/hook-headers.ts';
import { HookDenial, type HookedRequest, type Hooks } from '../../gateway/hooks.ts';
import type { Principal } from '../../kernel/chain.ts';
import type { GrpcExchange } from './exchange.ts';

/** A promise only when hooks judge this call. Rejects with what refuses it. */
export function runHooks(
  hooks: Hooks,
  gateway: Gateway,
  exchange: GrpcExchange,
  principal: Principal,
): Promise<void> | undefined {
  if (hooks.isIdle) return undefined;
  const { method, arrival, id: requestId, trace } = exchange;
  const operation = method.name;
  const after = hooks.of('afterResponse', operation, principal);
  const before = hooks.of('beforeRequest', operation, principal);
  const request: HookedRequest = {
    operation,
    method: arrival.method,
    principal,
    requestId,
    traceId: trace.traceId,
  };
  if (after.length > 0) exchange.onEnd = (answer) => hooks.after(after, request, answer);
  if (before.length === 0) return undefined;
  const headers = shownHeaders(textsOf(exchange.metadata));
  return judged(
    hooks.before(before, request, { path: arrival.path, query: {}, headers }, exchange.signal),
  );

  async function judged(verdict: Promise<unknown>): Promise<void> {
    try {
      await verdict;
    } catch (error) {
      if (error instanceof HookDenial) gateway.noteHook(arrival, principal, error.plugin);
      throw error;
    }
  }
}

/** The first value of each name; binary ones are left out. */
function textsOf(metadata: Metadata): { [name: string]: string } {
  const texts: { [name: string]: string } = {};
  for (const [name, value] of Object.entries(metadata.getMap())) {
    if (typeof value === 'string') texts[name] = value;
  }
  return texts;
}
