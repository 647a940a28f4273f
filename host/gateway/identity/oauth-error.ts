/** Errors of the token endpoint, in the words of RFC 6749 section 5.2 and no others where it has one. */
import { NoaError } from '@noa/sdk/host';

export type OAuthCode =
  | 'invalid_request'
  | 'invalid_client'
  | 'invalid_grant'
  | 'unauthorized_client'
  | 'unsupported_grant_type'
  | 'invalid_scope'
  /** RFC 7009 section 2.2.1. */
  | 'unsupported_token_type'
  /** RFC 6749 section 4.1.2.1 names these two for what HTTP's status alone would have to say here. */
  | 'temporarily_unavailable'
  | 'server_error';

export class OAuthError extends Error {
  readonly error: OAuthCode;
  readonly status: number;
  readonly retryAfterMs: number | undefined;

  /** `description` in printable ASCII without quotes and backslashes. */
  constructor(
    error: OAuthCode,
    description: string,
    options: { status?: number; retryAfterMs?: number | undefined; cause?: unknown } = {},
  ) {
    super(description, { cause: options.cause });
    this.name = 'OAuthError';
    this.error = error;
    this.status = options.status ?? (error === 'invalid_client' ? 401 : 400);
    this.retryAfterMs = options.retryAfterMs;
  }

  toBody(): { error: OAuthCode; error_description: string } {
    return { error: this.error, error_description: this.message };
  }
}

/** What the endpoint says of any failure. */
export function asOAuthError(error: unknown): OAuthError {
  if (error instanceof OAuthError) return error;
  const cause = error;
  if (!(error instanceof NoaError)) {
    return new OAuthError('server_error', 'the host failed to answer', { status: 500, cause });
  }
  const { code, retryAfterMs } = error;
  const text = error.message.replaceAll(/[^\x20-\x7e]|["\\]/g, "'");
  switch (code) {
    case 'RATE_LIMITED':
      return new OAuthError('temporarily_unavailable', text, { status: 429, retryAfterMs, cause });
    case 'UNAVAILABLE':
      return new OAuthError('temporarily_unavailable', text, { status: 503, retryAfterMs, cause });
    case 'PAYLOAD_TOO_LARGE':
      return new OAuthError('invalid_request', text, { status: 413, cause });
    case 'UNSUPPORTED_MEDIA_TYPE':
    case 'INVALID_ARGUMENT':
      return new OAuthError('invalid_request', text, { cause });
    default:
      return new OAuthError('server_error', 'the host failed to answer', { status: 500, cause });
  }
}
