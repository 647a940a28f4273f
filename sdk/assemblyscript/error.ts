/**
 * Errors that reach the caller with their own code. AssemblyScript has no exceptions to catch, so an error
 * ends the call at once: it is set, and the trap that follows ends this instance.
 */
import { setError } from './host';
import { Value, object } from './value';

/**
 * Ends the call: `return fail('NOT_FOUND', 'there is no note 7')`. Codes: INVALID_ARGUMENT, NOT_FOUND,
 * CONFLICT, … (the table in the README). It answers nothing; the type is for the compiler, which does not
 * evaluate the operand of `throw`.
 */
export function fail(code: string, message: string, details: Value | null = null): Value {
  const body = object().set('code', Value.of(code)).set('message', Value.of(message));
  if (details !== null && !details.isNull()) body.set('details', details);
  failWith(body);
  return body;
}

/** Ends the call with an error as the host gave it, `{code, message, details?}`. */
export function failWith(body: Value): void {
  setError(body.toString());
  unreachable();
}

/** What the compiler calls for `throw` and for a broken assertion: PLUGIN_TRAP with the place as its stack. */
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  const body = object().set('code', Value.of('PLUGIN_TRAP'));
  body.set('message', Value.of(message === null ? 'aborted' : message));
  const place = (file === null ? '?' : file) + ':' + line.toString() + ':' + column.toString();
  failWith(body.set('stack', Value.of('at ' + place)));
}
