/**
 * How what is secret is kept: AES-256-GCM (NIST SP 800-38D) under a key derived from the root key by HKDF
 * (RFC 5869), bound to a context, so that a sealed value moved to another place, or of an earlier time,
 * does not open there.
 */
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';

const NONCE_BYTES = 12;
const TAG_BYTES = 16;

export interface Sealed {
  /** Of the root key that sealed it. */
  readonly keyId: string;
  readonly nonce: Uint8Array;
  /** Ciphertext with its tag. */
  readonly sealed: Uint8Array;
}

/** What a value belongs to: its kind, then what tells it from others of its kind. */
type Context = readonly (string | number)[];

export class Seal {
  readonly #key: Uint8Array;
  /** Tells root keys apart without telling anything of them. */
  readonly #keyId: string;

  constructor(rootKey: Uint8Array) {
    const derive = (info: string, length: number): Uint8Array =>
      new Uint8Array(hkdfSync('sha256', rootKey, '', info, length));
    this.#key = derive('noa/secrets/aes-256-gcm', 32);
    this.#keyId = Buffer.from(derive('noa/secrets/key-id', 9)).toString('base64url');
  }

  close(context: Context, text: string): Sealed {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce);
    cipher.setAAD(Buffer.from(JSON.stringify(context)));
    const sealed = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]);
    const tagged = Buffer.concat([sealed, cipher.getAuthTag()]);
    return { keyId: this.#keyId, nonce, sealed: tagged };
  }

  /** Whether this root key sealed it. */
  isOurs({ keyId }: Sealed): boolean {
    return keyId === this.#keyId;
  }

  /** Throws when it was not sealed by this root key in this context, or was changed since. */
  open(context: Context, { nonce, sealed }: Sealed): string {
    const split = sealed.length - TAG_BYTES;
    const options = { authTagLength: TAG_BYTES };
    const decipher = createDecipheriv('aes-256-gcm', this.#key, nonce, options);
    decipher.setAAD(Buffer.from(JSON.stringify(context)));
    decipher.setAuthTag(sealed.subarray(split));
    const text = Buffer.concat([decipher.update(sealed.subarray(0, split)), decipher.final()]);
    return text.toString('utf8');
  }
}
