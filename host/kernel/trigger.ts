/** A call that the host makes of itself, because of an event or a time. */
import { type Json, NoaError } from '@noa/sdk/host';
import type { Invocation, Outcome } from './invocation.ts';
import type { Tracer } from './tracing.ts';

export interface TriggerPowers {
  /** Told of each call that failed, whoever is at fault: nobody else reads its answer. */
  readonly noteFailure: (trigger: Trigger, failure: NoaError) => void;
  readonly dispatch: (invocation: Invocation) => Promise<Outcome>;
  readonly newId: () => string;
  readonly tracer?: Tracer | undefined;
}

export interface Trigger {
  readonly plugin: string;
  readonly export: string;
  readonly input: Json;
  /** Who calls, for the audit log: `events` or `schedule`. */
  readonly subject: string;
}

/** Calls the export; answers why it failed, never rejects. */
export async function pull(
  { dispatch, newId, noteFailure, tracer }: TriggerPowers,
  trigger: Trigger,
  signal: AbortSignal,
): Promise<NoaError | undefined> {
  const { subject, ...call } = trigger;
  const span = tracer?.begin(subject, 'consumer');
  let failed: string | undefined;
  try {
    const principal = { subject, scopes: [] };
    await dispatch({
      ...call,
      id: newId(),
      principal,
      signal,
      traceId: span?.traceId ?? newId().replaceAll('-', ''),
      span,
    });
    return undefined;
  } catch (error) {
    const failure =
      error instanceof NoaError
        ? error
        : new NoaError('INTERNAL', 'the call failed in the host', { cause: error });
    // A call that the end of this host cuts off is made again.
    if (!signal.aborted) noteFailure(trigger, failure);
    failed = failure.code;
    return failure;
  } finally {
    span?.end(failed);
  }
}
