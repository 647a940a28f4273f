/**
 * The port to what is kept of identities. Changes are made inside the kernel's transactions, beside their
 * audit records; what is left of reads and of sessions, which come and go by themselves, is here.
 */
import type { Sealed } from '../../kernel/seal.ts';
import type { StoreTx } from '../../kernel/store.ts';

export type IdentityKind = 'user' | 'client';

/** A user or a client. Times are ISO 8601. */
export interface Identity {
  /** `user:alice`, `client:billing`. */
  readonly subject: string;
  readonly description: string;
  readonly roles: readonly string[];
  /** Beside those of its roles. */
  readonly scopes: readonly string[];
  /** Of its rate limit; null counts as L5. */
  readonly level: string | null;
  readonly disabled: boolean;
  /** Name of a configured issuer whose tokens may stand for this user, and what they call it. */
  readonly issuer: string | null;
  readonly externalSubject: string | null;
  readonly createdAt: string;
  readonly updatedAt: string;
}

/** An identity with what its roles give. */
export interface Holder extends Identity {
  /** Its own and those of its roles. */
  readonly effective: readonly string[];
}

/** A client as it is when it shows its secret. */
export interface ClientHolder extends Holder {
  readonly secretDigest: Uint8Array;
}

export interface Role {
  readonly name: string;
  readonly description: string;
  readonly scopes: readonly string[];
  readonly createdAt: string;
  readonly updatedAt: string;
}

/** What may be shown of an API key. */
export interface ApiKeyView {
  readonly id: string;
  /** Its owner. */
  readonly subject: string;
  readonly description: string;
  /** The most that it has; its owner may have less by now. */
  readonly scopes: readonly string[];
  readonly createdAt: string;
  readonly expiresAt: string | null;
}

export interface ApiKey extends ApiKeyView {
  readonly digest: Uint8Array;
}

/** All tokens that descend from one showing of a client's secret. */
export interface Session {
  readonly id: string;
  readonly subject: string;
  readonly scopes: readonly string[];
  /** Of the refresh token that is not spent. */
  readonly serial: number;
  readonly createdAt: string;
  readonly expiresAt: string;
}

/** An RSA key pair that signs access tokens. */
export interface SigningKey extends Sealed {
  readonly kid: string;
  readonly createdAt: string;
  /** When set, the key signs no more. */
  readonly retiredAt: string | null;
  /** The public half, as RFC 7517 has it. */
  readonly publicJwk: { readonly [member: string]: unknown };
}

/** Where a list goes on: after this key, at most so many. */
export interface Slice {
  readonly after: string | undefined;
  readonly limit: number;
}

/** Reads and writes inside one change. */
export interface IdentityTx {
  identity(subject: string): Promise<Holder | undefined>;
  countIdentities(kind: IdentityKind): Promise<number>;
  /** Keeps the digest as it is when none is given. Rejects with CONFLICT when another user has the link. */
  putIdentity(identity: Identity, secretDigest?: Uint8Array): Promise<void>;
  deleteIdentity(subject: string): Promise<void>;
  role(name: string): Promise<Role | undefined>;
  countRoles(): Promise<number>;
  /** Subjects that have the role, at most `limit` of them. */
  holdersOf(role: string, limit: number): Promise<string[]>;
  putRole(role: Role): Promise<void>;
  deleteRole(name: string): Promise<void>;
  apiKey(id: string): Promise<ApiKeyView | undefined>;
  countApiKeys(subject: string): Promise<number>;
  putApiKey(key: ApiKey): Promise<void>;
  deleteApiKey(id: string): Promise<void>;
  session(id: string): Promise<Session | undefined>;
  deleteSession(id: string): Promise<void>;
  /** Ends all of them; answers how many there were. */
  deleteSessions(subject: string): Promise<number>;
  signingKeys(): Promise<SigningKey[]>;
  putSigningKey(key: SigningKey): Promise<void>;
  deleteSigningKey(kid: string): Promise<void>;
}

export interface IdentityStore {
  /** The part of a change that is of identities. */
  in(tx: StoreTx): IdentityTx;
  /** In order of subject. */
  identities(kind: IdentityKind, slice: Slice): Promise<Identity[]>;
  holder(subject: string): Promise<Holder | undefined>;
  client(subject: string): Promise<ClientHolder | undefined>;
  /** The user that an issuer's subject is linked to. */
  linked(issuer: string, externalSubject: string): Promise<Holder | undefined>;
  /** In order of name. */
  roles(slice: Slice): Promise<Role[]>;
  role(name: string): Promise<Role | undefined>;
  /** In order of id, of all owners or one. */
  apiKeys(slice: Slice, subject?: string): Promise<ApiKeyView[]>;
  apiKey(id: string): Promise<{ readonly key: ApiKey; readonly holder: Holder } | undefined>;
  /** One that is not over. */
  session(id: string, now: string): Promise<{ session: Session; holder: Holder } | undefined>;
  /** Opens one; of more than `most` of a subject, those that were unused longest are deleted. */
  openSession(session: Session, most: number): Promise<void>;
  /** Spends the refresh token with this serial: false when it was spent before or the session is over. */
  refreshSession(id: string, serial: number, now: string): Promise<boolean>;
  /** Deletes those that are over. */
  sweepSessions(now: string): Promise<void>;
  signingKeys(): Promise<SigningKey[]>;
}
