/** Judges how a guest has ended, from what it left in its blocks or from what was thrown. */
import { GuestFailure } from './extism-http.ts';
import { GuestLimit, GuestTrap } from './instance.ts';
import type { Instance } from './instance.ts';
import type { Failure } from './protocol.ts';
import { describeTrap } from './trap.ts';

const MAX_ERROR_BYTES = 64 << 10;

export type Verdict =
  | { readonly output: string; readonly reusable: true }
  | { readonly reason: Failure; readonly text: string; readonly reusable: boolean };

/** A guest that returned. It may serve again unless it returned non-zero without saying why. */
export function judge({ arena, unit }: Instance, result: number): Verdict {
  const error = arena.text(arena.error, MAX_ERROR_BYTES);
  if (error !== undefined) return { reason: 'error', text: error, reusable: true };
  if (result !== 0) {
    const text = `The plugin returned ${result} and set no error.`;
    return { reason: 'trap', text, reusable: false };
  }
  const wrong = (text: string): Verdict => ({ reason: 'output', text, reusable: true });
  const { maxOutputBytes } = unit.spec.limits;
  const length = arena.outputLength;
  if (length < 0) return wrong('The plugin set an output outside its blocks.');
  if (length > maxOutputBytes) {
    return wrong(
      `The plugin's output has ${length} bytes; limits.maxOutputBytes is ${maxOutputBytes}.`,
    );
  }
  const output = arena.output();
  if (output === undefined) return wrong("The plugin's output is not UTF-8.");
  return { output, reusable: true };
}

/**
 * A guest, or its start function when there is no instance yet, that trapped or threw. What it reported
 * before it trapped, as a panic or an abort does, says more than the trap.
 */
export function cause(error: unknown, instance?: Instance): [Failure, string] {
  if (error instanceof GuestLimit) return ['exhausted', error.message];
  if (error instanceof GuestFailure) return ['error', JSON.stringify(error.body)];
  if (error instanceof GuestTrap) return ['trap', `The plugin trapped: ${error.message}.`];
  const reported = instance?.arena.text(instance.arena.error, MAX_ERROR_BYTES);
  return reported === undefined ? ['trap', describeTrap(error, instance)] : ['error', reported];
}
