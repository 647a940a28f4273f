/**
 * Access tokens of other issuers (RFC 7519), verified by their published keys (RFC 7517; OpenID Connect
 * Discovery 1.0 section 4). Invariants: an issuer's algorithms and audience are pinned by the configuration,
 * which also says what each value of its claim gives; what is fetched is bounded in size and time and follows
 * no redirect; an issuer that fails is left alone for a while, and no other token waits for it.
 */
import { NoaError } from '@noa/sdk/host';
import { createRemoteJWKSet, customFetch, errors, jwtVerify } from 'jose';
import type { JWTPayload } from 'jose';
import type { IssuerSettings } from './settings.ts';

const FETCH_MS = 3000;
const MAX_BYTES = 256 << 10;
/** Keys are asked for again when this old, and at most this often for one that is not among them. */
const KEYS_MS = 600_000;
const COOLDOWN_MS = 30_000;
const FIRST_BACKOFF_MS = 1000;
const MAX_BACKOFF_MS = 60_000;
const CLOCK_TOLERANCE_SECONDS = 60;
/** What of `sub` is taken into a subject. */
const SUBJECT = /^[\x21-\x7e]{1,255}$/;
const MAX_VALUES = 1000;

export interface VerifiedExternal {
  /** What the issuer calls the caller. */
  readonly sub: string;
  readonly scopes: readonly string[];
  readonly roles: readonly string[];
  /** Milliseconds since the epoch. */
  readonly expiresAt: number;
}

export class ExternalIssuer {
  readonly options: IssuerSettings;
  readonly #now: () => number;
  #keys: Promise<ReturnType<typeof createRemoteJWKSet>> | undefined;
  #failures = 0;
  #retryAt = 0;

  /** `now` in milliseconds since the epoch. */
  constructor(options: IssuerSettings, now: () => number) {
    this.options = options;
    this.#now = now;
  }

  /** Undefined for what is no valid token of this issuer. Rejects with UNAVAILABLE when its keys are not to be had. */
  async verify(text: string): Promise<VerifiedExternal | undefined> {
    const { issuer, audience, algorithms } = this.options;
    try {
      const keys = await this.#keySet();
      const { payload } = await jwtVerify(text, keys, {
        algorithms: [...algorithms],
        issuer,
        audience,
        requiredClaims: ['sub', 'exp'],
        currentDate: new Date(this.#now()),
        clockTolerance: CLOCK_TOLERANCE_SECONDS,
      });
      this.#failures = 0;
      return this.#read(payload);
    } catch (error) {
      if (error instanceof errors.JOSEError && !isOfKeySet(error)) return undefined;
      throw this.#away(error);
    }
  }

  #read(payload: JWTPayload): VerifiedExternal | undefined {
    const { sub, exp } = payload;
    if (sub === undefined || exp === undefined || !SUBJECT.test(sub)) return undefined;
    if (exp * 1000 <= this.#now()) return undefined;
    const values = valuesOf(payload[this.options.claim]);
    const given = this.options.map.filter(({ value }) => values.has(value));
    const union = (member: 'scopes' | 'roles') => [
      ...new Set(given.flatMap((mapping) => mapping[member])),
    ];
    return { sub, scopes: union('scopes'), roles: union('roles'), expiresAt: exp * 1000 };
  }

  #keySet(): Promise<ReturnType<typeof createRemoteJWKSet>> {
    this.#keys ??= this.#find().catch((error: unknown) => {
      this.#keys = undefined;
      throw error;
    });
    return this.#keys;
  }

  async #find(): Promise<ReturnType<typeof createRemoteJWKSet>> {
    const url = this.options.jwks_url ?? (await this.#discover());
    return createRemoteJWKSet(new URL(url), {
      timeoutDuration: FETCH_MS,
      cooldownDuration: COOLDOWN_MS,
      cacheMaxAge: KEYS_MS,
      [customFetch]: (target, init) => this.#fetch(target, init.signal),
    });
  }

  async #discover(): Promise<string> {
    const { issuer } = this.options;
    const url = `${issuer.replace(/\/$/, '')}/.well-known/openid-configuration`;
    const response = await this.#fetch(url, AbortSignal.timeout(FETCH_MS));
    const document: unknown = await response.json();
    if (typeof document !== 'object' || document === null) throw new Error('it is no object');
    const { issuer: named, jwks_uri: found } = document as { issuer?: unknown; jwks_uri?: unknown };
    if (named !== issuer) throw new Error('its issuer is another one');
    if (typeof found !== 'string' || !isSafe(found)) throw new Error('its jwks_uri is not https');
    return found;
  }

  /** Fails at once while the issuer is left alone. */
  async #fetch(url: string, signal: AbortSignal): Promise<Response> {
    const wait = this.#retryAt - this.#now();
    if (wait > 0) throw new Error(`it failed and is not asked again for ${wait} ms`);
    const headers = { accept: 'application/json' };
    const response = await fetch(url, { signal, redirect: 'error', headers });
    const bytes = await readBounded(response);
    if (!response.ok) throw new Error(`it answered ${response.status}`);
    return new Response(bytes);
  }

  /** Of many that wait for one answer, the first counts. */
  #away(cause: unknown): NoaError {
    const now = this.#now();
    if (now >= this.#retryAt) {
      this.#retryAt = now + Math.min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** this.#failures);
      this.#failures = Math.min(this.#failures + 1, 10);
    }
    const retryAfterMs = this.#retryAt - now;
    const text = `the keys of the issuer ${this.options.name} cannot be read: try again later`;
    return new NoaError('UNAVAILABLE', text, { cause, retryAfterMs });
  }
}

/** Of the issuer's keys rather than of the token. */
function isOfKeySet(error: errors.JOSEError): boolean {
  const { code } = error;
  return code === 'ERR_JWKS_TIMEOUT' || code === 'ERR_JWKS_INVALID' || code === 'ERR_JOSE_GENERIC';
}

function isSafe(text: string): boolean {
  const url = URL.parse(text);
  if (url?.username !== '' || url.password !== '') return false;
  const isLoopback = /^(127\.0\.0\.1|localhost|\[::1\])$/.test(url.hostname);
  return url.protocol === 'https:' || (url.protocol === 'http:' && isLoopback);
}

/** A claim's values: those of a list, or of one text with spaces between them. */
function valuesOf(claim: unknown): ReadonlySet<unknown> {
  const list: readonly unknown[] =
    typeof claim === 'string' ? claim.split(' ') : Array.isArray(claim) ? claim : [];
  return new Set(list.slice(0, MAX_VALUES));
}

async function readBounded(response: Response): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  const body: AsyncIterable<Uint8Array> | readonly Uint8Array[] = response.body ?? [];
  for await (const chunk of body) {
    size += chunk.length;
    if (size > MAX_BYTES) throw new Error(`its answer has more than ${MAX_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
