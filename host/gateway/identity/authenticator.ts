/**
 * Who stands behind a request: a bearer credential (RFC 6750) becomes a Principal. Invariants: nobody is
 * anonymous here; credentials are compared as SHA-256 digests in constant time; no failure tells how
 * close a guess was.
 */
import { hash, timingSafeEqual } from 'node:crypto';
import { NoaError } from '@noa/sdk/host';
import type { Principal } from '../../kernel/chain.ts';
import { RateLimiter } from '../../kernel/rate.ts';
import type { Arrival } from '../arrival.ts';

/**
 * Wrong credentials that one address may send in a second before it is answered RATE_LIMITED. A right
 * one passes all the same: they are too long to guess, and a stranger behind the same proxy must not be
 * able to lock out the others.
 */
const FAILURES_PER_SECOND = 5;
/** Headers that were found good are kept as text up to this number: one credential can be written in many ways. */
const MAX_RECOGNISED = 64;
/** RFC 6750 section 2.1; the scheme in any case, and a token of whatever characters was configured. */
const BEARER = /^Bearer +(\S{1,4096}) *$/i;

export interface Credential {
  /** A secret of 32 characters or more. */
  readonly token: string;
  readonly principal: Principal;
}

export interface AuthenticatorOptions {
  readonly credentials: readonly Credential[];
  readonly now: () => number;
}

export class Authenticator {
  readonly #known: readonly { digest: Buffer; principal: Principal }[];
  /** Of the credential that is looked for now. */
  readonly #digest = Buffer.alloc(32);
  /**
   * Headers whose credential was found by its digest, for the digest costs more than the rest of this
   * check. A look-up compares texts only where their hashes agree, and those are seeded anew in each
   * process: how long a wrong guess takes tells nothing about a right one.
   */
  readonly #recognised = new Map<string, Principal>();
  readonly #failures: RateLimiter;

  constructor(options: AuthenticatorOptions) {
    this.#known = options.credentials.map(({ token, principal }) => ({
      digest: hash('sha256', token, 'buffer'),
      principal,
    }));
    this.#failures = new RateLimiter(FAILURES_PER_SECOND, options.now);
  }

  /** Throws UNAUTHENTICATED, or RATE_LIMITED after many failures. */
  authenticate({ authorization, remoteAddress }: Arrival): Principal {
    if (authorization === undefined) {
      const text = 'authorization: is required; send "Bearer <token>"';
      throw new NoaError('UNAUTHENTICATED', text);
    }
    const principal = this.#find(authorization);
    if (principal !== undefined) return principal;
    this.#failures.take(addressKey(remoteAddress), 'a wrong credential from one address');
    const text =
      'authorization: the credential is not valid; send "Bearer <token>" with one of this host';
    throw new NoaError('UNAUTHENTICATED', text);
  }

  #find(authorization: string): Principal | undefined {
    const recognised = this.#recognised.get(authorization);
    if (recognised !== undefined) return recognised;
    const [, token] = BEARER.exec(authorization) ?? [];
    if (token === undefined) return undefined;
    // As a string: a Buffer made for each request costs as much as the digest itself.
    this.#digest.write(hash('sha256', token, 'binary'), 'binary');
    let found: Principal | undefined;
    for (const known of this.#known) {
      if (timingSafeEqual(known.digest, this.#digest)) found = known.principal;
    }
    if (found !== undefined && this.#recognised.size < MAX_RECOGNISED) {
      this.#recognised.set(authorization, found);
    }
    return found;
  }
}

/** An IPv4 address, or the network of an IPv6 one: its owner may take any address in it. */
function addressKey(address = ''): string {
  if (!address.includes(':') || address.includes('.')) return address;
  const [head = '', tail] = address.split('::');
  const left = head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const gap = tail === undefined ? 0 : 8 - left.length - right.length;
  return [...left, ...Array<string>(gap).fill('0'), ...right].slice(0, 4).join(':');
}
