/** A call that the host makes of itself, because of an event or a time. */
import { type Json, NoaError } from '@noa/sdk/host';
import type { Invocation, Outcome } from './invocation.ts';

export interface TriggerPowers {
  readonly dispatch: (invocation: Invocation) => Promise<Outcome>;
  readonly newId: () => string;
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
  { dispatch, newId }: TriggerPowers,
  { subject, ...call }: Trigger,
  signal: AbortSignal,
): Promise<NoaError | undefined> {
  try {
    const principal = { subject, scopes: [] };
    await dispatch({
      ...call,
      id: newId(),
      principal,
      signal,
      traceId: newId().replaceAll('-', ''),
    });
    return undefined;
  } catch (error) {
    if (error instanceof NoaError) return error;
    return new NoaError('INTERNAL', 'the call failed in the host', { cause: error });
  }
}
