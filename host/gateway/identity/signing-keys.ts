/**
 * The RSA keys that sign access tokens (RFC 7518 section 3.3), shared by all hosts of a database: the private
 * half lies there sealed under the root key. A retired key verifies until all that it signed has expired, and
 * is deleted at the next rotation. Invariant: a key is found by its id in a map and nowhere else, so nothing
 * that a token's header says is ever followed.
 */
import { NoaError } from '@noa/sdk/host';
import { exportJWK, exportPKCS8, generateKeyPair, importJWK, importPKCS8 } from 'jose';
import type { CryptoKey, JWK } from 'jose';
import { Buckets } from '../../kernel/rate.ts';
import { event } from '../../kernel/records.ts';
import type { Seal } from '../../kernel/seal.ts';
import type { Changes } from './changes.ts';
import type { IdentityStore, IdentityTx, SigningKey } from './store.ts';

export const ALGORITHM = 'RS256';
const MODULUS_BITS = 2048;
/** Longer than an access token lives at most, by what it takes the last host to hear of a rotation. */
const OVERLAP_MS = 3_600_000 + 60_000;
/** How often keys that are not known yet are looked for. */
const RELOADS = { burst: 5, perSecond: 1 };

/** What may be shown of a key. */
export type SigningKeyView = Pick<SigningKey, 'kid' | 'createdAt' | 'retiredAt'>;

export interface SigningKeysOptions {
  readonly store: Pick<IdentityStore, 'signingKeys'>;
  readonly changes: Changes;
  readonly seal: Seal;
  readonly now: () => number;
  readonly newId: () => string;
}

interface Loaded {
  readonly epoch: number;
  /** Newest first; those that verify. */
  readonly keys: readonly SigningKey[];
  readonly publics: ReadonlyMap<string, CryptoKey>;
}

export class SigningKeys {
  readonly #options: SigningKeysOptions;
  readonly #reloads: Buckets;
  #loading: { readonly epoch: number; readonly loaded: Promise<Loaded> } | undefined;
  #loaded: Loaded | undefined;
  #signer: { readonly kid: string; readonly key: CryptoKey } | undefined;

  constructor(options: SigningKeysOptions) {
    this.#options = options;
    this.#reloads = new Buckets(RELOADS, options.now);
  }

  /** The key that signs now; made when there is none. */
  async signer(): Promise<{ readonly kid: string; readonly key: CryptoKey }> {
    const { keys } = await this.#current();
    const newest = this.#active(keys) ?? (await this.#first());
    if (this.#signer?.kid !== newest.kid) {
      const pkcs8 = this.#options.seal.open(boundTo(newest.kid), newest);
      this.#signer = { kid: newest.kid, key: await importPKCS8(pkcs8, ALGORITHM) };
    }
    return this.#signer;
  }

  /** Undefined for a key that no token is verified by. */
  async verifier(kid: string): Promise<CryptoKey | undefined> {
    const loaded = await this.#current();
    const known = loaded.publics.get(kid);
    if (known !== undefined || this.#reloads.take('') > 0) return known;
    // Made on another host a moment ago.
    return (await this.#load()).publics.get(kid);
  }

  /** The public keys as RFC 7517 section 5 has them. */
  async jwks(): Promise<{ keys: JWK[] }> {
    const { keys } = await this.#current();
    return {
      keys: keys.map(({ kid, publicJwk }) => ({
        ...publicJwk,
        kid,
        alg: ALGORITHM,
        use: 'sig',
      })),
    };
  }

  /** Newest first; the one that is not retired signs. */
  async list(): Promise<SigningKeyView[]> {
    const { keys } = await this.#current();
    return keys.map(viewOf);
  }

  /** Signs with a new key from now on. What all others signed is good until it expires. */
  async rotate(actor: string): Promise<SigningKeyView> {
    const fresh = await this.#generate();
    await this.#options.changes.make(async (tx, note) => {
      const retired = await this.#retire(tx, fresh.createdAt);
      await tx.putSigningKey(fresh);
      note(event('auth.signing-key.rotate', actor, null, { kid: fresh.kid, retired }));
    });
    return viewOf(fresh);
  }

  /** The first key, whichever of many hosts comes first. */
  async #first(): Promise<SigningKey> {
    const fresh = await this.#generate();
    return this.#options.changes.make(async (tx, note) => {
      const present = this.#active(await tx.signingKeys());
      if (present !== undefined) return present;
      // Keys of another root key stay: hosts that were given different ones would retire each other's for ever.
      await tx.putSigningKey(fresh);
      note(event('auth.signing-key.create', 'host', null, { kid: fresh.kid }));
      return fresh;
    });
  }

  /** Retires what signs and deletes what verifies no more; answers the ids of the former. */
  async #retire(tx: IdentityTx, at: string): Promise<string[]> {
    const retired: string[] = [];
    for (const key of await tx.signingKeys()) {
      if (!this.#verifies(key)) await tx.deleteSigningKey(key.kid);
      else if (key.retiredAt === null) {
        await tx.putSigningKey({ ...key, retiredAt: at });
        retired.push(key.kid);
      }
    }
    return retired;
  }

  async #generate(): Promise<SigningKey> {
    const { newId, seal, changes } = this.#options;
    const pair = await generateKeyPair(ALGORITHM, {
      modulusLength: MODULUS_BITS,
      extractable: true,
    });
    const kid = `s-${newId().slice(0, 8)}`;
    const { kty, n, e } = await exportJWK(pair.publicKey);
    const sealed = seal.close(boundTo(kid), await exportPKCS8(pair.privateKey));
    return { kid, createdAt: changes.at(), retiredAt: null, publicJwk: { kty, n, e }, ...sealed };
  }

  /** The newest key that signs. One that another root key sealed cannot. */
  #active(keys: readonly SigningKey[]): SigningKey | undefined {
    const signing = keys.filter((key) => key.retiredAt === null && this.#options.seal.isOurs(key));
    return newestFirst(signing)[0];
  }

  #verifies({ retiredAt }: SigningKey): boolean {
    return retiredAt === null || Date.parse(retiredAt) + OVERLAP_MS > this.#options.now();
  }

  async #current(): Promise<Loaded> {
    const known = this.#loaded;
    if (known === undefined || known.epoch !== this.#options.changes.epoch) return this.#load();
    const keys = known.keys.filter((key) => this.#verifies(key));
    if (keys.length === known.keys.length) return known;
    const kids = new Set(keys.map(({ kid }) => kid));
    const publics = new Map([...known.publics].filter(([kid]) => kids.has(kid)));
    this.#loaded = { ...known, keys, publics };
    return this.#loaded;
  }

  #load(): Promise<Loaded> {
    const { epoch } = this.#options.changes;
    if (this.#loading?.epoch === epoch) return this.#loading.loaded;
    const loading = { epoch, loaded: this.#read(epoch) };
    const forget = (): void => {
      if (this.#loading === loading) this.#loading = undefined;
    };
    loading.loaded.then(forget, forget);
    this.#loading = loading;
    return loading.loaded;
  }

  async #read(epoch: number): Promise<Loaded> {
    const { store } = this.#options;
    const all = await store.signingKeys();
    const keys = newestFirst(all.filter((key) => this.#verifies(key)));
    const publics = new Map<string, CryptoKey>();
    for (const { kid, publicJwk } of keys) publics.set(kid, await publicKey(kid, publicJwk));
    const loaded = { epoch, keys, publics };
    if (epoch >= (this.#loaded?.epoch ?? 0)) this.#loaded = loaded;
    return loaded;
  }
}

async function publicKey(kid: string, jwk: SigningKey['publicJwk']): Promise<CryptoKey> {
  const key = await importJWK(jwk, ALGORITHM);
  if (key instanceof Uint8Array) throw new NoaError('INTERNAL', `the key ${kid} is no RSA key`);
  return key;
}

/** A private key moved to another id does not open. */
function boundTo(kid: string): readonly string[] {
  return ['noa/signing-key', kid];
}

function viewOf({ kid, createdAt, retiredAt }: SigningKey): SigningKeyView {
  return { kid, createdAt, retiredAt };
}

function newestFirst(keys: readonly SigningKey[]): SigningKey[] {
  return keys.toSorted((a, b) => b.createdAt.localeCompare(a.createdAt));
}
