/** The administration's REST form as its client sees it: problems become the NoaError that they were. */
import { ERROR_KINDS, isErrorCode, type Json, NoaError } from '@noa/sdk/host';
import type { DevHost } from './author/io.ts';

/** Longer than any deadline that a manifest may set (10 minutes). */
const TIMEOUT_MS = 660_000;

/** OpenSSL's words for a certificate without a known authority behind it. */
const UNTRUSTED = /^(DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_(GET_ISSUER|VERIFY_LEAF))/;

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

export interface Body {
  /** A plugin bundle … */
  readonly bundle?: Uint8Array | undefined;
  /** … or a value. */
  readonly json?: Json | undefined;
}

export class AdminClient implements DevHost {
  readonly url: string;
  readonly #token: string;

  /** Throws INVALID_ARGUMENT when `url` is not the http(s) address of a host. */
  constructor(url: string, token: string) {
    const parsed = URL.parse(url);
    if (parsed === null || !/^https?:$/.test(parsed.protocol)) {
      const message = `--url (NOA_URL) must be the address of a host, such as http://127.0.0.1:8080, not ${url}`;
      throw new NoaError('INVALID_ARGUMENT', message);
    }
    this.url = parsed.origin;
    this.#token = token;
  }

  send(method: 'GET' | 'POST' | 'PUT', path: string, bundle?: Uint8Array): Promise<Json> {
    return this.request(method, path, { bundle });
  }

  /**
   * The answer's JSON, null when there is none; that it is a T is the host's word. Rejects with the host's NoaError, with UNAVAILABLE when
   * no host answers and with CANCELLED when `signal` aborts.
   */
  async request<T = Json>(
    method: Method,
    path: string,
    body: Body = {},
    signal?: AbortSignal,
  ): Promise<T> {
    const content = encode(body);
    const timeout = AbortSignal.timeout(TIMEOUT_MS);
    const response = await fetch(new URL(path, this.url), {
      method,
      headers: { ...this.#credential(), ...content?.headers },
      body: content?.body ?? null,
      signal: signal === undefined ? timeout : AbortSignal.any([signal, timeout]),
      redirect: 'error',
    }).catch((cause: unknown) => {
      throw this.#unanswered(cause, signal);
    });
    const text = await response.text();
    if (response.ok) return parse(text === '' ? 'null' : text, response) as T;
    throw problemOf(text, response);
  }

  #credential(): { authorization?: string } {
    return this.#token === '' ? {} : { authorization: `Bearer ${this.#token}` };
  }

  /** Whether a host answers at all. */
  async answers(): Promise<boolean> {
    const signal = AbortSignal.timeout(2000);
    const response = await fetch(new URL('/health', this.url), { signal }).catch(() => undefined);
    return response?.ok === true;
  }

  #unanswered(cause: unknown, signal: AbortSignal | undefined): NoaError {
    if (signal?.aborted) return new NoaError('CANCELLED', 'interrupted', { cause });
    if (cause instanceof Error && cause.name === 'TimeoutError') {
      return new NoaError('DEADLINE_EXCEEDED', `${this.url} took too long to answer`, { cause });
    }
    const reason = cause instanceof Error ? cause.cause : undefined;
    const code = reason instanceof Error && 'code' in reason ? reason.code : undefined;
    if (code === 'ECONNREFUSED') {
      const message = `no host answers at ${this.url}; start one with \`noa serve\`, or name another with --url`;
      return new NoaError('UNAVAILABLE', message, { cause });
    }
    if (typeof code === 'string' && /^(ERR_SSL_|EPROTO)/.test(code)) {
      const message = `${this.url} does not speak TLS: write http:// in --url (NOA_URL), or name the address that does`;
      return new NoaError('UNAVAILABLE', message, { cause });
    }
    if (typeof code === 'string' && UNTRUSTED.test(code)) {
      const message = `${this.url} has a certificate that nobody here trusts (${code}): set NODE_EXTRA_CA_CERTS to the PEM file of its authority, or of the certificate itself`;
      return new NoaError('UNAVAILABLE', message, { cause });
    }
    const why = reason instanceof Error ? reason.message : String(cause);
    return new NoaError('UNAVAILABLE', `${this.url} cannot be reached: ${why}`, { cause });
  }
}

function encode({ bundle, json }: Body) {
  if (bundle !== undefined) {
    return { headers: { 'content-type': 'application/gzip' }, body: Uint8Array.from(bundle) };
  }
  if (json === undefined) return undefined;
  return { headers: { 'content-type': 'application/json' }, body: JSON.stringify(json) };
}

function parse(text: string, response: Response): Json {
  try {
    return JSON.parse(text) as Json;
  } catch (cause) {
    throw notAHost(response, cause);
  }
}

/** The NoaError inside a problem document (RFC 9457). */
function problemOf(text: string, response: Response): NoaError {
  const type = response.headers.get('content-type') ?? '';
  if (type.startsWith('application/json')) return refusalOf(text, response);
  if (!type.startsWith('application/problem+json')) return notAHost(response);
  const problem = parse(text, response);
  if (typeof problem !== 'object' || problem === null || Array.isArray(problem)) {
    return notAHost(response);
  }
  const { code, detail, errors, details } = problem;
  if (!isErrorCode(code)) return notAHost(response);
  const seconds = Number(response.headers.get('retry-after') ?? Number.NaN);
  return new NoaError(code, typeof detail === 'string' ? detail : code, {
    details: errors ?? details,
    ...(Number.isFinite(seconds) ? { retryAfterMs: seconds * 1000 } : {}),
  });
}

/** The token endpoint has errors of its own (RFC 6749 section 5.2). */
function refusalOf(text: string, response: Response): NoaError {
  const body = parse(text, response);
  const isOne = typeof body === 'object' && body !== null && !Array.isArray(body);
  const { error, error_description: words } = isOne ? body : {};
  if (typeof error !== 'string' || typeof words !== 'string') return notAHost(response);
  const codes = Object.keys(ERROR_KINDS).filter(isErrorCode);
  const code = codes.find((one) => ERROR_KINDS[one].status === response.status);
  return new NoaError(code ?? 'INVALID_ARGUMENT', `${words} (${error})`);
}

function notAHost(response: Response, cause?: unknown): NoaError {
  const message = `${response.url} answered ${response.status}, but not as a NOA host does; is --url right?`;
  return new NoaError('UNAVAILABLE', message, { cause });
}
