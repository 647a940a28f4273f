/**
 * Who stands behind a request: a credential becomes a Principal. Configured ones and those that were found good
 * a moment ago are answered at once; for others a promise. Invariants: nobody is anonymous here; secrets are
 * compared in constant time; no failure tells how close a guess was; what is remembered of a credential counts
 * only until it expires or anything that this host knows of has changed.
 */
import { hash, timingSafeEqual } from 'node:crypto';
import { NoaError } from '@noa/sdk/host';
import type { Principal } from '../../kernel/chain.ts';
import { RateLimiter } from '../../kernel/rate.ts';
import type { Arrival } from '../arrival.ts';
import { addressKey } from './address.ts';
import { bearerOf } from './credentials.ts';

/**
 * Wrong credentials that one address may send in a second before it is answered RATE_LIMITED. A right
 * one passes all the same: they are too long to guess, and a stranger behind the same proxy must not be
 * able to lock out the others.
 */
const FAILURES_PER_SECOND = 5;
/** As almost everybody writes it. */
const PREFIX = 'Bearer ';
/** Headers that were found good are kept as text up to this number: one credential can be written in many ways. */
const MAX_RECOGNISED = 64;
/** The same of those that were looked up; whoever is forgotten is known by the digest still. */
const MAX_FAMILIAR = 1024;
/** Longest header of that kind, in characters. */
const MAX_FAMILIAR_LENGTH = 2048;
/** Credentials that are remembered by their digest; the one that was found first goes first. */
const MAX_VERIFIED = 20_000;
/** Credentials that are being looked up at one time. */
const MAX_PENDING = 256;

export interface Credential {
  /** A secret of 32 characters or more. */
  readonly token: string;
  readonly principal: Principal;
}

/** What a credential was found to be. */
export interface Found {
  readonly principal: Principal;
  /** Milliseconds since the epoch. */
  readonly expiresAt: number;
}

/** Looks credentials up. */
export interface Lookup {
  /** Another number once what was found before need not hold any more. */
  readonly epoch: number;
  /** Undefined for none of this host's. Rejects only when it cannot know. */
  find(credential: string): Promise<Found | undefined>;
}

export interface AuthenticatorOptions {
  readonly credentials: readonly Credential[];
  /** Of those that are not named here. */
  readonly lookup?: Lookup;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

interface Verified extends Found {
  readonly epoch: number;
}

export class Authenticator {
  readonly #known: readonly { digest: Buffer; principal: Principal }[];
  readonly #lookup: Lookup | undefined;
  readonly #now: () => number;
  /** Of the credential that is looked for now. */
  readonly #digest = Buffer.alloc(32);
  /**
   * Headers whose credential was found by its digest, for the digest costs more than the rest of this
   * check. A look-up compares texts only where their hashes agree, and those are seeded anew in each
   * process: how long a wrong guess takes tells nothing about a right one.
   */
  readonly #recognised = new Map<string, Principal>();
  /** By the header, as above, of credentials that are among the verified: those of whom much is heard. */
  readonly #familiar = new Map<string, Verified>();
  /** By SHA-256 of the credential, as a string: a Buffer for each request costs as much as the digest. */
  readonly #verified = new Map<string, Verified>();
  readonly #pending = new Map<string, Promise<Principal | undefined>>();
  readonly #failures: RateLimiter;

  constructor(options: AuthenticatorOptions) {
    this.#known = options.credentials.map(({ token, principal }) => ({
      digest: hash('sha256', token, 'buffer'),
      principal,
    }));
    this.#lookup = options.lookup;
    this.#now = options.now;
    this.#failures = new RateLimiter(FAILURES_PER_SECOND, options.now);
  }

  /**
   * Throws or rejects with UNAUTHENTICATED, with RATE_LIMITED after many failures, and with UNAVAILABLE when
   * it cannot know. `Bearer` goes before `x-api-key`.
   */
  authenticate({ authorization, apiKey, remoteAddress }: Arrival): Principal | Promise<Principal> {
    if (authorization !== undefined) {
      const recognised = this.#recognised.get(authorization);
      if (recognised !== undefined) return recognised;
      const familiar = this.#familiar.get(authorization);
      if (familiar !== undefined) {
        if (this.#isFresh(familiar)) return familiar.principal;
        this.#familiar.delete(authorization);
      }
    } else if (apiKey === undefined) {
      const text = 'authorization: is required; send "Bearer <token>"';
      throw new NoaError('UNAUTHENTICATED', text);
    }
    const likely = likelyIn(authorization, apiKey);
    let digest = hash('sha256', likely, 'binary');
    const remembered = this.#remembered(digest);
    if (remembered !== undefined) {
      if (authorization !== undefined) this.#familiarise(authorization, remembered);
      return remembered.principal;
    }
    const credential = authorization === undefined ? apiKey : bearerOf(authorization);
    if (credential === undefined) throw this.#refusal(remoteAddress);
    if (credential !== likely) {
      digest = hash('sha256', credential, 'binary');
      const again = this.#remembered(digest);
      if (again !== undefined) return again.principal;
    }
    const principal = this.#configured(digest, authorization);
    if (principal !== undefined) return principal;
    if (this.#lookup === undefined) throw this.#refusal(remoteAddress);
    return this.#find(this.#lookup, digest, credential, remoteAddress);
  }

  #remembered(digest: string): Verified | undefined {
    const verified = this.#verified.get(digest);
    if (verified === undefined || this.#isFresh(verified)) return verified;
    this.#verified.delete(digest);
    return undefined;
  }

  #isFresh({ epoch, expiresAt }: Verified): boolean {
    return epoch === this.#lookup?.epoch && expiresAt > this.#now();
  }

  #familiarise(authorization: string, verified: Verified): void {
    if (authorization.length > MAX_FAMILIAR_LENGTH) return;
    if (this.#familiar.size >= MAX_FAMILIAR) this.#familiar.clear();
    this.#familiar.set(authorization, verified);
  }

  #configured(digest: string, authorization: string | undefined): Principal | undefined {
    this.#digest.write(digest, 'binary');
    let found: Principal | undefined;
    for (const known of this.#known) {
      if (timingSafeEqual(known.digest, this.#digest)) found = known.principal;
    }
    const isNew = found !== undefined && this.#recognised.size < MAX_RECOGNISED;
    if (found !== undefined && isNew && authorization !== undefined) {
      this.#recognised.set(authorization, found);
    }
    return found;
  }

  async #find(
    lookup: Lookup,
    digest: string,
    credential: string,
    remoteAddress: string | undefined,
  ): Promise<Principal> {
    // Whoever comes after a change does not get what was looked up before it.
    const key = `${digest}${lookup.epoch}`;
    let pending = this.#pending.get(key);
    if (pending === undefined) {
      if (this.#pending.size >= MAX_PENDING) {
        const text = 'too many credentials are being looked up: try again';
        throw new NoaError('UNAVAILABLE', text, { retryAfterMs: 1000 });
      }
      pending = this.#verify(lookup, digest, credential).finally(() => this.#pending.delete(key));
      this.#pending.set(key, pending);
    }
    const principal = await pending;
    if (principal === undefined) throw this.#refusal(remoteAddress);
    return principal;
  }

  async #verify(
    lookup: Lookup,
    digest: string,
    credential: string,
  ): Promise<Principal | undefined> {
    const { epoch } = lookup;
    const found = await lookup.find(credential);
    if (found === undefined) return undefined;
    const [oldest] = this.#verified.keys();
    if (oldest !== undefined && this.#verified.size >= MAX_VERIFIED) this.#verified.delete(oldest);
    this.#verified.set(digest, { ...found, epoch });
    return found.principal;
  }

  /** Also RATE_LIMITED when it was one too many. */
  #refusal(remoteAddress: string | undefined): NoaError {
    this.#failures.take(addressKey(remoteAddress), 'a wrong credential from one address');
    const text =
      'authorization: the credential is not valid; send "Bearer <token>" with one of this host';
    return new NoaError('UNAUTHENTICATED', text);
  }
}

/**
 * The credential of a request as almost everybody writes it, cut off rather than parsed: parsing costs more
 * than the digest, and what is remembered was parsed once.
 */
function likelyIn(authorization: string | undefined, apiKey = ''): string {
  if (authorization === undefined) return apiKey;
  return authorization.startsWith(PREFIX) ? authorization.slice(PREFIX.length) : '';
}
