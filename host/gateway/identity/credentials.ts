/**
 * How credentials are written, read and compared. Every secret here is 256 random bits, so its SHA-256
 * digest is all that has to be kept: a slow hash defends what can be guessed, and this cannot. Invariants:
 * what is not written exactly as it was made is no credential; secrets are compared in constant time.
 */
import { createHmac, hash, hkdfSync, randomBytes, timingSafeEqual } from 'node:crypto';

/** RFC 6750 section 2.1; the scheme in any case, and a token of whatever characters was configured. */
const BEARER = /^Bearer +(\S{1,8192}) *$/i;
const API_KEY = /^noa_([0-9a-f]{16})_([A-Za-z0-9_-]{43})$/;
const REFRESH_TOKEN = /^noa_rt_([A-Za-z0-9_-]{70})$/;
const SESSION_ID_BYTES = 16;
const SERIAL_BYTES = 4;

/** The token of an `authorization` header. */
export function bearerOf(authorization: string): string | undefined {
  return BEARER.exec(authorization)?.[1];
}

export function digestOf(secret: string): Buffer {
  return hash('sha256', secret, 'buffer');
}

export function isSecretOf(secret: string, digest: Uint8Array): boolean {
  return digest.length === 32 && timingSafeEqual(digestOf(secret), digest);
}

/** A secret of a client, with its digest. */
export function newClientSecret(): { secret: string; digest: Buffer } {
  const secret = `noa_cs_${randomBytes(32).toString('base64url')}`;
  return { secret, digest: digestOf(secret) };
}

/** An API key: its text, what it is found by, and the digest of its secret part. */
export function newApiKey(): { text: string; id: string; digest: Buffer } {
  const id = randomBytes(8).toString('hex');
  const secret = randomBytes(32).toString('base64url');
  return { text: `noa_${id}_${secret}`, id, digest: digestOf(secret) };
}

export function readApiKey(text: string): { id: string; secret: string } | undefined {
  const [, id, secret] = API_KEY.exec(text) ?? [];
  return id === undefined || secret === undefined ? undefined : { id, secret };
}

export function newSessionId(): string {
  return randomBytes(SESSION_ID_BYTES).toString('base64url');
}

/**
 * Refresh tokens: the session, the serial number in it, and an HMAC of both under a key derived from the
 * root key (RFC 2104, RFC 5869). So a token that was spent is told from one that never was, with nothing
 * kept of it but the number.
 */
export class RefreshTokens {
  readonly #key: Uint8Array;

  constructor(rootKey: Uint8Array) {
    this.#key = new Uint8Array(hkdfSync('sha256', rootKey, '', 'noa/refresh-token', 32));
  }

  write(sessionId: string, serial: number): string {
    const head = Buffer.alloc(SESSION_ID_BYTES + SERIAL_BYTES);
    head.write(sessionId, 'base64url');
    head.writeUInt32BE(serial, SESSION_ID_BYTES);
    return `noa_rt_${Buffer.concat([head, this.#mac(head)]).toString('base64url')}`;
  }

  /** Undefined for what this never wrote. */
  read(text: string): { sessionId: string; serial: number } | undefined {
    const [, body] = REFRESH_TOKEN.exec(text) ?? [];
    if (body === undefined) return undefined;
    const bytes = Buffer.from(body, 'base64url');
    if (bytes.toString('base64url') !== body) return undefined;
    const head = bytes.subarray(0, SESSION_ID_BYTES + SERIAL_BYTES);
    if (!timingSafeEqual(bytes.subarray(head.length), this.#mac(head))) return undefined;
    const sessionId = head.subarray(0, SESSION_ID_BYTES).toString('base64url');
    return { sessionId, serial: head.readUInt32BE(SESSION_ID_BYTES) };
  }

  #mac(head: Uint8Array): Buffer {
    return createHmac('sha256', this.#key).update(head).digest();
  }
}
