/**
 * Capability tokens: HS256 JWTs (RFC 7519, RFC 7515) that carry a plugin instance's rights for a few
 * minutes. A child token can only narrow its parent. Invariant: a token is good for exactly one generation of one plugin in one
 * host, and only while this service still knows every ancestor of it.
 */
import { hash } from 'node:crypto';
import { NoaError } from '@noa/sdk/host';
import { errors, jwtVerify, SignJWT } from 'jose';
import { CommonRights, type Right } from './grants.ts';
import { KeyRing, MAX_LIFE, type TokenKey } from './key-ring.ts';

const TOKEN_TYPE = 'noa-capability+jwt';
/** Of a token's life in seconds (spec section 2.4). */
export const MIN_LIFE = 60;
/** Verified tokens that are remembered; the oldest goes first. */
const REMEMBERED = 20_000;

/** What a token may still consume. An absent field is unlimited. */
export interface Budget {
  calls?: number;
  rows?: number;
  tokens?: number;
  bytes?: number;
  ms?: number;
}

/** The plugin instance that a token is for. */
export interface Audience {
  readonly plugin: string;
  /** Names one plugin in one running host. */
  readonly instance: string;
  readonly generation: number;
}

export interface Claims extends Audience {
  readonly id: string;
  readonly kid: string;
  readonly parent: string | undefined;
  /** Seconds since the epoch. */
  readonly issuedAt: number;
  readonly expiresAt: number;
  readonly rights: readonly Right[];
  readonly budget: Budget | undefined;
}

export interface Token {
  readonly text: string;
  readonly claims: Claims;
}

export interface TokenServiceOptions {
  readonly issuer: string;
  /** At least 32 bytes. */
  readonly rootKey: Uint8Array;
  /** Life of a new token in seconds, 60 to 300. */
  readonly lifeSeconds: number;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly newId: () => string;
}

export class TokenService {
  readonly #options: TokenServiceOptions;
  readonly #keys: KeyRing;
  /** Verified claims by the digest of the token text. */
  readonly #verified = new Map<string, Claims>();
  readonly #common = new CommonRights();
  /**
   * Ancestry of every token that this service issued and that may still live. Nothing is evicted, for that
   * would void the tokens of others: what bounds it is that callers keep few and revoke what is used up.
   */
  readonly #issued = new Map<string, { parent: string | undefined; expiresAt: number }>();

  constructor(options: TokenServiceOptions) {
    this.#keys = new KeyRing(options.rootKey, 'noa capability token v1');
    if (options.lifeSeconds < MIN_LIFE || options.lifeSeconds > MAX_LIFE) {
      throw new NoaError('INVALID_ARGUMENT', `a token lives ${MIN_LIFE} to ${MAX_LIFE} seconds`);
    }
    this.#options = options;
  }

  /** Tokens that were issued and have neither expired nor been revoked, as of the last sweep. */
  get live(): number {
    return this.#issued.size;
  }

  /** Life of a new token in seconds. */
  get lifeSeconds(): number {
    return this.#options.lifeSeconds;
  }

  /** Takes the present set of keys: the newest unretired one signs. Throws when there is none. */
  useKeys(keys: readonly TokenKey[]): void {
    this.#keys.use(keys);
    this.#verified.clear();
  }

  /** A token for one plugin instance with these rights. */
  mint(audience: Audience, rights: readonly Right[], budget?: Budget): Promise<Token> {
    return this.#sign(audience, rights, undefined, budget, Number.POSITIVE_INFINITY);
  }

  /**
   * A token for the plugin that `parent`'s plugin calls: it has what both have, lives no longer than its
   * parent and spends the parent's budget beside its own.
   */
  attenuate(
    parent: Claims,
    audience: Audience,
    rights: readonly Right[],
    budget?: Budget,
  ): Promise<Token> {
    const common = this.#common.of(parent.rights, rights);
    return this.#sign(audience, common, parent.id, budget, parent.expiresAt);
  }

  async #sign(
    audience: Audience,
    rights: readonly Right[],
    parent: string | undefined,
    budget: Budget | undefined,
    latest: number,
  ): Promise<Token> {
    const { kid, secret } = this.#keys.signer();
    const issuedAt = Math.floor(this.#options.now() / 1000);
    const expiresAt = Math.min(issuedAt + this.#options.lifeSeconds, latest);
    const id = this.#options.newId();
    const claims: Claims = { ...audience, id, kid, parent, issuedAt, expiresAt, rights, budget };
    const text = await new SignJWT({
      gen: audience.generation,
      cap: rights.map((right) => ({
        c: right.capability,
        o: right.operations,
        r: right.resources,
        g: right.grants,
      })),
      ...(parent === undefined ? {} : { parent }),
      ...(budget === undefined ? {} : { budget }),
    })
      .setProtectedHeader({ alg: 'HS256', typ: TOKEN_TYPE, kid })
      .setIssuer(this.#options.issuer)
      .setSubject(audience.plugin)
      .setAudience(audience.instance)
      .setJti(id)
      .setIssuedAt(issuedAt)
      .setNotBefore(issuedAt)
      .setExpirationTime(expiresAt)
      .sign(secret);
    this.#issued.set(id, { parent, expiresAt });
    return { text, claims };
  }

  /**
   * The claims of a token that is genuine, alive, unrevoked (ancestors included) and meant for this
   * audience. Throws UNAUTHENTICATED, without saying more than the rule that failed.
   */
  async verify(text: string, audience: Audience): Promise<Claims> {
    const digest = hash('sha256', text, 'base64');
    let claims = this.#verified.get(digest);
    if (claims === undefined) {
      claims = await this.#decode(text);
      remember(this.#verified, digest, claims);
    }
    const now = this.#options.now();
    if (claims.expiresAt * 1000 <= now) throw refused('it has expired');
    if (claims.issuedAt * 1000 > now + 1000) throw refused('it is not valid yet');
    this.#checkKey(claims.kid, now);
    if (
      claims.plugin !== audience.plugin ||
      claims.instance !== audience.instance ||
      claims.generation !== audience.generation
    ) {
      throw refused('it was issued to another plugin instance');
    }
    this.#checkAncestry(claims.id);
    return claims;
  }

  #checkKey(kid: string | undefined, now: number): Uint8Array {
    const key = this.#keys.verifier(kid, now);
    if (typeof key === 'string') throw refused(`its key is ${key}`);
    return key;
  }

  #checkAncestry(id: string): void {
    let next: string | undefined = id;
    while (next !== undefined) {
      const known = this.#issued.get(next);
      if (known === undefined) throw refused('it was revoked, or this host did not issue it');
      next = known.parent;
    }
  }

  async #decode(text: string): Promise<Claims> {
    try {
      const { payload, protectedHeader } = await jwtVerify(
        text,
        ({ kid }) => this.#checkKey(kid, this.#options.now()),
        {
          algorithms: ['HS256'],
          typ: TOKEN_TYPE,
          issuer: this.#options.issuer,
          requiredClaims: ['sub', 'aud', 'jti', 'iat', 'nbf', 'exp', 'gen', 'cap'],
          currentDate: new Date(this.#options.now()),
        },
      );
      return readClaims(payload, protectedHeader.kid);
    } catch (error) {
      if (error instanceof errors.JWTExpired) throw refused('it has expired');
      if (error instanceof errors.JOSEError) throw refused('it is not genuine', error);
      throw error;
    }
  }

  /** Takes a token that was issued elsewhere, and whose bearer was judged, for the parent of others here. */
  adopt({ id, parent, expiresAt }: Pick<Claims, 'id' | 'parent' | 'expiresAt'>): void {
    this.#issued.set(id, { parent, expiresAt });
  }

  /** Refuses this token and all its descendants from the next check on. */
  revoke(id: string): void {
    this.#issued.delete(id);
  }

  /** Forgets what has expired; called now and then so that memory follows the live tokens. */
  sweep(): void {
    const now = this.#options.now() / 1000;
    for (const [id, { expiresAt }] of this.#issued) if (expiresAt < now) this.#issued.delete(id);
    for (const [key, { expiresAt }] of this.#verified)
      if (expiresAt < now) this.#verified.delete(key);
  }
}

function refused(reason: string, cause?: unknown): NoaError {
  return new NoaError('UNAUTHENTICATED', `the capability token was refused: ${reason}`, { cause });
}

function remember<V>(map: Map<string, V>, key: string, value: V): void {
  map.set(key, value);
  if (map.size <= REMEMBERED) return;
  const oldest = map.keys().next();
  if (!oldest.done) map.delete(oldest.value);
}

function readClaims(payload: Record<string, unknown>, kid: string | undefined): Claims {
  const { sub, aud, jti, iat, exp, gen, cap, parent, budget } = payload;
  if (
    typeof sub !== 'string' ||
    typeof aud !== 'string' ||
    typeof jti !== 'string' ||
    typeof iat !== 'number' ||
    typeof exp !== 'number' ||
    typeof gen !== 'number' ||
    kid === undefined ||
    exp - iat > MAX_LIFE ||
    !(parent === undefined || typeof parent === 'string') ||
    !isRights(cap) ||
    !isBudget(budget)
  ) {
    throw refused('a claim has the wrong form');
  }
  const rights = cap.map(({ c, o, r, g }) => ({
    capability: c,
    operations: o,
    resources: r,
    grants: g,
  }));
  return {
    plugin: sub,
    instance: aud,
    generation: gen,
    id: jti,
    kid,
    parent,
    issuedAt: iat,
    expiresAt: exp,
    rights,
    budget,
  };
}

interface WireRight {
  c: string;
  o: string[];
  r: string[];
  g: string[];
}

function isRights(value: unknown): value is WireRight[] {
  return Array.isArray(value) && value.every(isRight);
}

function isRight(value: unknown): value is WireRight {
  if (typeof value !== 'object' || value === null) return false;
  const { c, o, r, g } = value as Record<string, unknown>;
  return typeof c === 'string' && isStrings(o) && isStrings(r) && isStrings(g);
}

function isStrings(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'string');
}

const BUDGET_FIELDS: readonly string[] = ['calls', 'rows', 'tokens', 'bytes', 'ms'];

export function isBudget(value: unknown): value is Budget | undefined {
  if (value === undefined) return true;
  if (typeof value !== 'object' || value === null) return false;
  return Object.entries(value).every(
    ([field, amount]) =>
      BUDGET_FIELDS.includes(field) &&
      typeof amount === 'number' &&
      Number.isFinite(amount) &&
      amount >= 0,
  );
}
