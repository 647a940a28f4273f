/**
 * The keys that sign tokens of one purpose: derived by HKDF (RFC 5869) from the root key, one for each `kid`.
 * Invariant: a key of one purpose verifies nothing of another.
 */
import { hkdfSync } from 'node:crypto';
import { NoaError } from '@noa/sdk/host';

const KID = /^[a-z0-9][a-z0-9-]{0,31}$/;
/** How long a retired key verifies, in seconds: the longest life of a token (spec section 2.4). */
export const MAX_LIFE = 300;

export interface TokenKey {
  readonly kid: string;
  /** ISO 8601. */
  readonly createdAt: string;
  /** When set, the key signs no more, and verifies until one token life after this moment. */
  readonly retiredAt: string | null;
}

export class KeyRing {
  readonly #rootKey: Uint8Array;
  readonly #purpose: string;
  readonly #keys = new Map<string, { secret: Uint8Array; retiredAt: number | undefined }>();
  #signing: { kid: string; secret: Uint8Array } | undefined;

  /** Throws INVALID_ARGUMENT for a root key of less than 32 bytes. */
  constructor(rootKey: Uint8Array, purpose: string) {
    if (rootKey.byteLength < 32) {
      const text = 'auth.root_key is shorter than 32 bytes: use a longer one';
      throw new NoaError('INVALID_ARGUMENT', text);
    }
    this.#rootKey = rootKey;
    this.#purpose = purpose;
  }

  /** Takes the present set of keys: the newest unretired one signs. Throws INTERNAL when there is none. */
  use(keys: readonly TokenKey[]): void {
    this.#keys.clear();
    this.#signing = undefined;
    for (const { kid, retiredAt } of keys.toSorted((a, b) =>
      a.createdAt.localeCompare(b.createdAt),
    )) {
      if (!KID.test(kid)) {
        throw new NoaError('INTERNAL', `the key id ${JSON.stringify(kid)} is malformed`);
      }
      const secret = new Uint8Array(hkdfSync('sha256', this.#rootKey, kid, this.#purpose, 32));
      const retired = retiredAt === null ? undefined : Date.parse(retiredAt);
      this.#keys.set(kid, { secret, retiredAt: retired });
      if (retired === undefined) this.#signing = { kid, secret };
    }
    if (this.#signing === undefined) throw new NoaError('INTERNAL', 'there is no key to sign with');
  }

  signer(): { readonly kid: string; readonly secret: Uint8Array } {
    if (this.#signing === undefined) throw new NoaError('INTERNAL', 'no signing key is set');
    return this.#signing;
  }

  /** The secret of a key that verifies at `now` (milliseconds), or why there is none. */
  verifier(kid: string | undefined, now: number): Uint8Array | 'unknown' | 'retired' {
    const key = kid === undefined || !KID.test(kid) ? undefined : this.#keys.get(kid);
    if (key === undefined) return 'unknown';
    const isOver = key.retiredAt !== undefined && now > key.retiredAt + MAX_LIFE * 1000;
    return isOver ? 'retired' : key.secret;
  }
}
