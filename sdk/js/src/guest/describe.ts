/** Puts anything that was thrown into words, without ever throwing itself. */
import { NoaError, type ErrorBody } from '../errors.ts';

/** The body of an error on the wire; `stack` is the guest's own, in positions of the bundle. */
export interface FailureBody extends ErrorBody {
  stack?: string;
}

const MAX_CAUSES = 4;

/** One line: `TypeError: not a function`, or the thrown value itself when it is no Error. */
export function describe(thrown: unknown): string {
  try {
    if (thrown instanceof Error) return String(thrown).toWellFormed();
    if (typeof thrown === 'string') return thrown.toWellFormed();
    return `${JSON.stringify(thrown) ?? String(thrown)}`.toWellFormed();
  } catch {
    return `a ${typeof thrown} that cannot be printed`;
  }
}

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
