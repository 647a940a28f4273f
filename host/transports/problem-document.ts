/** RFC 9457 problem documents with the stable `code` of the SDK's one table. */
import { ERROR_KINDS, type ErrorCode, type NoaError } from '@noa/sdk/host';

export const PROBLEM_TYPE = 'application/problem+json';

export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly code: ErrorCode;
  /** The path that was asked for; a query may hold secrets and is left out. */
  readonly instance?: string;
  readonly traceId?: string;
  /** What breaks a schema: `[{path, rule, message}]`. */
  readonly errors?: unknown;
  /** Other particulars. */
  readonly details?: unknown;
}

/** `status` differs from the table only where HTTP itself has a closer one (RFC 6585, RFC 9110). */
export function problem(error: NoaError, status = ERROR_KINDS[error.code].status): Problem {
  const { code, message, details } = error;
  const { title } = ERROR_KINDS[code];
  const extension =
    details === undefined ? {} : { [isViolations(details) ? 'errors' : 'details']: details };
  return { type: `urn:noa:error:${code}`, title, status, detail: message, code, ...extension };
}

function isViolations(details: unknown): boolean {
  return (
    Array.isArray(details) &&
    details.every(
      (item) => typeof item === 'object' && item !== null && 'path' in item && 'message' in item,
    )
  );
}
