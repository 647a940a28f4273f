/** Puts anything that was thrown into words, without ever throwing itself. */
import { NoaError, type ErrorBody } from '../errors.ts';

/** The body of an error on the wire; `stack` is the guest's own, in positions of the bundle. */
export interface FailureBody extends ErrorBody {
  stack?: string;
}

const MAX_CAUSES = 4;

/** `TypeError: not a function`, or the thrown value itself when it is no Error: objects as JSON. */
export function describe(thrown: unknown): string {
  try {
    return printsItself(thrown) ? String(thrown).toWellFormed() : String(JSON.stringify(thrown));
  } catch {
    return `${typeof thrown} that cannot be printed`;
  }
}

const printsItself = (thrown: unknown): boolean =>
  typeof thrown !== 'object' || thrown instanceof Error;

/** A NoaError keeps its code; anything else is the plugin's failure and shows where it was thrown. */
export function toBody(thrown: unknown): FailureBody {
  if (thrown instanceof NoaError && thrown.code !== 'PLUGIN_TRAP') {
    const body = thrown.toBody();
    try {
      JSON.stringify(body.details);
    } catch {
      delete body.details;
    }
    return body;
  }
  const message = thrown instanceof NoaError ? thrown.message : describe(thrown);
  const stack = trace(thrown);
  return { code: 'PLUGIN_TRAP', message, ...(stack !== '' && { stack }) };
}

/** The stack of an error and those of its causes. */
export function trace(thrown: unknown): string {
  const lines: string[] = [];
  let error = thrown;
  for (let depth = 0; error instanceof Error && depth < MAX_CAUSES; depth += 1) {
    lines.push(
      `${depth === 0 ? '' : 'caused by '}${describe(error)}`,
      `${error.stack ?? ''}`.trimEnd(),
    );
    error = error.cause;
  }
  return lines.join('\n');
}
