/**
 * Finds what a credential is: an API key, an access token of this host, one of a configured issuer, or the
 * capability token of a machine caller.
 * Invariant: whatever a token says, its holder has no more than what the database gives it now.
 */
import { NoaError } from '@noa/sdk/host';
import { decodeJwt, decodeProtectedHeader } from 'jose';
import { CALLER_TOKEN_TYPE, type CallerTokens } from '../../kernel/caller-tokens.ts';
import type { AccessTokens } from './access-tokens.ts';
import type { Found, Lookup } from './authenticator.ts';
import type { Changes } from './changes.ts';
import { isSecretOf, readApiKey } from './credentials.ts';
import type { ExternalIssuer } from './external.ts';
import { principalOf } from './rights.ts';
import type { IdentityStore } from './store.ts';

/** Tokens of other issuers that are being verified at one time: a slow issuer keeps no others waiting. */
const MAX_EXTERNAL = 64;
/** A token of no issuer that is known here is not looked at further. */
const JWT = /^[\w-]+\.[\w-]+\.[\w-]+$/;

export interface IdentityLookupOptions {
  readonly store: IdentityStore;
  readonly changes: Changes;
  readonly tokens: AccessTokens;
  /** `iss` of this host's own tokens. */
  readonly issuer: string;
  readonly externals: readonly ExternalIssuer[];
  readonly callers: Pick<CallerTokens, 'find'>;
  readonly now: () => number;
}

export class IdentityLookup implements Lookup {
  readonly #options: IdentityLookupOptions;
  readonly #externals: ReadonlyMap<string, ExternalIssuer>;
  #external = 0;

  constructor(options: IdentityLookupOptions) {
    this.#options = options;
    this.#externals = new Map(options.externals.map((one) => [one.options.issuer, one]));
  }

  get epoch(): number {
    return this.#options.changes.epoch;
  }

  async find(credential: string): Promise<Found | undefined> {
    const key = readApiKey(credential);
    if (key !== undefined) return this.#apiKey(key.id, key.secret);
    if (!JWT.test(credential)) return undefined;
    if (typeOf(credential) === CALLER_TOKEN_TYPE) return this.#options.callers.find(credential);
    const issuer = issuerOf(credential);
    if (issuer === this.#options.issuer) return this.#own(credential);
    const external = issuer === undefined ? undefined : this.#externals.get(issuer);
    return external && this.#foreign(external, credential);
  }

  async #apiKey(id: string, secret: string): Promise<Found | undefined> {
    const found = await this.#options.store.apiKey(id);
    if (found === undefined || !isSecretOf(secret, found.key.digest)) return undefined;
    const { key, holder } = found;
    const expiresAt = key.expiresAt === null ? Number.POSITIVE_INFINITY : Date.parse(key.expiresAt);
    if (holder.disabled || expiresAt <= this.#options.now()) return undefined;
    return { principal: principalOf(holder, key.scopes), expiresAt };
  }

  async #own(text: string): Promise<Found | undefined> {
    const { store, changes, tokens } = this.#options;
    const token = await tokens.verify(text);
    if (token === undefined) return undefined;
    const { subject, sessionId, scopes, expiresAt } = token;
    const holder = (await store.session(sessionId, changes.at()))?.holder;
    if (holder === undefined || holder.disabled || holder.subject !== subject) return undefined;
    return { principal: principalOf(holder, scopes), expiresAt };
  }

  async #foreign(external: ExternalIssuer, text: string): Promise<Found | undefined> {
    if (this.#external >= MAX_EXTERNAL) {
      const what = `too many tokens of the issuer ${external.options.name} are being verified: try again`;
      throw new NoaError('UNAVAILABLE', what, { retryAfterMs: 1000 });
    }
    this.#external += 1;
    try {
      const token = await external.verify(text);
      if (token === undefined) return undefined;
      const { sub, scopes, roles, expiresAt } = token;
      const { name, level } = external.options;
      const user = await this.#options.store.linked(name, sub);
      if (user?.disabled) return undefined;
      if (user !== undefined) return { principal: principalOf(user), expiresAt };
      return { principal: { subject: `${name}:${sub}`, scopes, roles, level }, expiresAt };
    } finally {
      this.#external -= 1;
    }
  }
}

function typeOf(token: string): string | undefined {
  try {
    return decodeProtectedHeader(token).typ;
  } catch {
    return undefined; // no JWT
  }
}

/** What a token says of itself, before anything of it is believed. */
function issuerOf(token: string): string | undefined {
  try {
    return decodeJwt(token).iss;
  } catch {
    return undefined; // no JWT
  }
}
