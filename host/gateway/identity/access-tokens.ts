/**
 * Access tokens of this host: RS256 JWTs (RFC 7519, RFC 9068). Invariant: what is verified here was signed by
 * one of the known keys, for this audience, by this issuer, with this algorithm, and says all that it must;
 * whether it still holds is asked of its session.
 */
import { decodeProtectedHeader, errors, jwtVerify, SignJWT } from 'jose';
import { ALGORITHM, type SigningKeys } from './signing-keys.ts';

export const AUDIENCE = 'noa';
/** RFC 9068 section 2.1. */
const TYPE = 'at+jwt';
/** By how much the clock of the host that signed may be before this one's. */
const CLOCK_TOLERANCE_SECONDS = 60;
const CLAIMS = ['sub', 'client_id', 'sid', 'scope', 'jti', 'iat', 'nbf', 'exp'];

export interface AccessClaims {
  readonly subject: string;
  readonly clientId: string;
  readonly sessionId: string;
  readonly scopes: readonly string[];
  readonly roles: readonly string[];
  readonly level: string | undefined;
}

export interface VerifiedAccess {
  readonly subject: string;
  readonly sessionId: string;
  readonly scopes: readonly string[];
  /** Milliseconds since the epoch. */
  readonly expiresAt: number;
}

export interface AccessTokensOptions {
  readonly keys: SigningKeys;
  readonly issuer: string;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly newId: () => string;
}

export class AccessTokens {
  readonly #options: AccessTokensOptions;

  constructor(options: AccessTokensOptions) {
    this.#options = options;
  }

  /** A token that lives so many seconds. */
  async sign(claims: AccessClaims, lifeSeconds: number): Promise<string> {
    const { keys, issuer, now, newId } = this.#options;
    const { kid, key } = await keys.signer();
    const issuedAt = Math.floor(now() / 1000);
    const { subject, clientId, sessionId, scopes, roles, level } = claims;
    return new SignJWT({
      client_id: clientId,
      sid: sessionId,
      scope: scopes.join(' '),
      roles,
      level,
    })
      .setProtectedHeader({ alg: ALGORITHM, typ: TYPE, kid })
      .setIssuer(issuer)
      .setSubject(subject)
      .setAudience(AUDIENCE)
      .setJti(newId())
      .setIssuedAt(issuedAt)
      .setNotBefore(issuedAt)
      .setExpirationTime(issuedAt + lifeSeconds)
      .sign(key);
  }

  /** Undefined for what is no valid token of this host. Rejects only when it cannot know. */
  async verify(text: string): Promise<VerifiedAccess | undefined> {
    const { keys, issuer, now } = this.#options;
    const kid = keyIdOf(text);
    const key = kid === undefined ? undefined : await keys.verifier(kid);
    if (key === undefined) return undefined;
    try {
      const { payload } = await jwtVerify(text, key, {
        algorithms: [ALGORITHM],
        issuer,
        audience: AUDIENCE,
        typ: TYPE,
        requiredClaims: CLAIMS,
        currentDate: new Date(now()),
        clockTolerance: CLOCK_TOLERANCE_SECONDS,
      });
      const { sub, aud, exp, sid, scope } = payload;
      const isWhole = typeof sid === 'string' && typeof scope === 'string' && aud === AUDIENCE;
      if (!isWhole || sub === undefined || exp === undefined) return undefined;
      if (exp * 1000 <= now()) return undefined; // the tolerance is for `nbf`
      const scopes = scope.split(' ').filter((one) => one !== '');
      return { subject: sub, sessionId: sid, scopes, expiresAt: exp * 1000 };
    } catch (error) {
      if (error instanceof errors.JOSEError) return undefined;
      throw error;
    }
  }
}

function keyIdOf(text: string): string | undefined {
  try {
    return decodeProtectedHeader(text).kid;
  } catch {
    return undefined; // no JWT at all
  }
}
