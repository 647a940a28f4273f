/**
 * The one table of error codes. Every layer throws `NoaError`; every transport translates the code by
 * this table and by nothing else, so a plugin, an HTTP client and a gRPC client see the same name.
 */

export interface ErrorKind {
  /** HTTP status of the answer (RFC 9110). */
  readonly status: number;
  /** gRPC status code. */
  readonly grpc: number;
  /** Whether the same call may succeed later without a change by the caller. */
  readonly retryable: boolean;
  /** Short, constant title of the problem document (RFC 9457 `title`). */
  readonly title: string;
}

export type ErrorCode =
  | 'INVALID_ARGUMENT'
  | 'UNAUTHENTICATED'
  | 'PERMISSION_DENIED'
  | 'CAPABILITY_DENIED'
  | 'NOT_FOUND'
  | 'METHOD_NOT_ALLOWED'
  | 'CONFLICT'
  | 'GRANT_PENDING'
  | 'PLUGIN_DISABLED'
  | 'PAYLOAD_TOO_LARGE'
  | 'UNSUPPORTED_MEDIA_TYPE'
  | 'IDEMPOTENCY_MISMATCH'
  | 'RATE_LIMITED'
  | 'RESOURCE_EXHAUSTED'
  | 'CANCELLED'
  | 'INTERNAL'
  | 'PLUGIN_TRAP'
  | 'PLUGIN_OUTPUT_INVALID'
  | 'UNAVAILABLE'
  | 'PLUGIN_QUARANTINED'
  | 'DEADLINE_EXCEEDED';

export const ERROR_KINDS: { readonly [code in ErrorCode]: ErrorKind } = {
  INVALID_ARGUMENT: { status: 400, grpc: 3, retryable: false, title: 'The request breaks a rule' },
  UNAUTHENTICATED: {
    status: 401,
    grpc: 16,
    retryable: false,
    title: 'No valid credential was presented',
  },
  PERMISSION_DENIED: {
    status: 403,
    grpc: 7,
    retryable: false,
    title: 'The credential lacks the right',
  },
  CAPABILITY_DENIED: {
    status: 403,
    grpc: 7,
    retryable: false,
    title: 'The plugin lacks the grant',
  },
  NOT_FOUND: { status: 404, grpc: 5, retryable: false, title: 'There is no such thing' },
  METHOD_NOT_ALLOWED: {
    status: 405,
    grpc: 12,
    retryable: false,
    title: 'The path does not take this method',
  },
  CONFLICT: {
    status: 409,
    grpc: 9,
    retryable: false,
    title: 'The present state does not allow this',
  },
  GRANT_PENDING: { status: 409, grpc: 9, retryable: false, title: 'The plugin waits for a grant' },
  PLUGIN_DISABLED: { status: 409, grpc: 9, retryable: false, title: 'The plugin is disabled' },
  PAYLOAD_TOO_LARGE: {
    status: 413,
    grpc: 8,
    retryable: false,
    title: 'The payload is over the limit',
  },
  UNSUPPORTED_MEDIA_TYPE: {
    status: 415,
    grpc: 3,
    retryable: false,
    title: 'The media type is not taken here',
  },
  IDEMPOTENCY_MISMATCH: {
    status: 422,
    grpc: 9,
    retryable: false,
    title: 'The key was used with another request',
  },
  RATE_LIMITED: { status: 429, grpc: 8, retryable: true, title: 'Too many requests' },
  RESOURCE_EXHAUSTED: { status: 429, grpc: 8, retryable: true, title: 'A bound was reached' },
  CANCELLED: { status: 499, grpc: 1, retryable: false, title: 'The caller went away' },
  INTERNAL: { status: 500, grpc: 13, retryable: false, title: 'The host failed' },
  PLUGIN_TRAP: { status: 500, grpc: 13, retryable: false, title: 'The plugin failed' },
  PLUGIN_OUTPUT_INVALID: {
    status: 500,
    grpc: 13,
    retryable: false,
    title: 'The plugin broke its own schema',
  },
  UNAVAILABLE: { status: 503, grpc: 14, retryable: true, title: 'Not available now' },
  PLUGIN_QUARANTINED: {
    status: 503,
    grpc: 14,
    retryable: false,
    title: 'The plugin is in quarantine',
  },
  DEADLINE_EXCEEDED: { status: 504, grpc: 4, retryable: true, title: 'The deadline passed' },
};

/** The form in which an error crosses the sandbox and the wire. */
export interface ErrorBody {
  code: ErrorCode;
  message: string;
  details?: unknown;
  retryAfterMs?: number;
}

export interface NoaErrorOptions {
  /** Machine-readable particulars; shown to the caller, so never a secret, a token or a host path. */
  details?: unknown;
  /** The original failure; logged, never shown. */
  cause?: unknown;
  /** For retryable codes: how long the caller should wait, in milliseconds. */
  retryAfterMs?: number;
}

/** An error that a caller may see: `message` names the field, the rule and the fix. */
export class NoaError extends Error {
  readonly code: ErrorCode;
  readonly details: unknown;
  readonly retryAfterMs: number | undefined;

  constructor(code: ErrorCode, message: string, options: NoaErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'NoaError';
    this.code = code;
    this.details = options.details;
    this.retryAfterMs = options.retryAfterMs;
  }

  toBody(): ErrorBody {
    const body: ErrorBody = { code: this.code, message: this.message };
    if (this.details !== undefined) body.details = this.details;
    if (this.retryAfterMs !== undefined) body.retryAfterMs = this.retryAfterMs;
    return body;
  }
}

export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(ERROR_KINDS, value);
}
