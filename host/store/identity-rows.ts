/** The rows of identities as the port has them. */
import type {
  ApiKey,
  ApiKeyView,
  Holder,
  Identity,
  Role,
  Session,
  SigningKey,
} from '../gateway/identity/store.ts';

export interface IdentityRow {
  subject: string;
  description: string;
  roles: string[];
  scopes: string[];
  level: string | null;
  disabled: boolean;
  issuer: string | null;
  external_subject: string | null;
  created_at: Date;
  updated_at: Date;
}

export interface HolderRow extends IdentityRow {
  role_scopes: string[];
  secret_digest: Buffer | null;
}

export interface RoleRow {
  name: string;
  description: string;
  scopes: string[];
  created_at: Date;
  updated_at: Date;
}

export interface KeyRow {
  id: string;
  subject: string;
  description: string;
  digest: Buffer;
  scopes: string[];
  created_at: Date;
  expires_at: Date | null;
}

export interface SessionRow {
  id: string;
  subject: string;
  scopes: string[];
  serial: number;
  created_at: Date;
  expires_at: Date;
}

export interface SigningKeyRow {
  kid: string;
  created_at: Date;
  retired_at: Date | null;
  public_jwk: SigningKey['publicJwk'];
  key_id: string;
  nonce: Buffer;
  sealed: Buffer;
}

/** Of `i`, an identity. */
export const IDENTITY = `i.subject, i.description, i.roles, i.scopes, i.level, i.disabled, i.issuer,
  i.external_subject, i.created_at, i.updated_at`;
export const HOLDER = `${IDENTITY}, i.secret_digest, array(
  select distinct unnest(r.scopes) from noa.auth_roles r where r.name = any (i.roles)) as role_scopes`;
export const ROLE = 'name, description, scopes, created_at, updated_at';
export const API_KEY =
  'k.id, k.subject, k.description, k.digest, k.scopes, k.created_at, k.expires_at';
export const SESSION = 's.id, s.subject, s.scopes, s.serial, s.created_at, s.expires_at';
export const SIGNING_KEY = 'kid, created_at, retired_at, public_jwk, key_id, nonce, sealed';

export function toIdentity(row: IdentityRow): Identity {
  return {
    subject: row.subject,
    description: row.description,
    roles: row.roles,
    scopes: row.scopes,
    level: row.level,
    disabled: row.disabled,
    issuer: row.issuer,
    externalSubject: row.external_subject,
    createdAt: row.created_at.toISOString(),
    updatedAt: row.updated_at.toISOString(),
  };
}

export function toHolder(row: HolderRow): Holder {
  const effective = [...new Set([...row.scopes, ...row.role_scopes])];
  return { ...toIdentity(row), effective };
}

export function toRole({ created_at, updated_at, ...rest }: RoleRow): Role {
  return { ...rest, createdAt: created_at.toISOString(), updatedAt: updated_at.toISOString() };
}

export function toApiKeyView(row: KeyRow): ApiKeyView {
  const { id, subject, description, scopes, created_at, expires_at } = row;
  const expiresAt = expires_at?.toISOString() ?? null;
  return { id, subject, description, scopes, createdAt: created_at.toISOString(), expiresAt };
}

export function toApiKey(row: KeyRow): ApiKey {
  return { ...toApiKeyView(row), digest: row.digest };
}

export function toSession({ created_at, expires_at, ...rest }: SessionRow): Session {
  return { ...rest, createdAt: created_at.toISOString(), expiresAt: expires_at.toISOString() };
}

export function toSigningKey(row: SigningKeyRow): SigningKey {
  return {
    kid: row.kid,
    createdAt: row.created_at.toISOString(),
    retiredAt: row.retired_at?.toISOString() ?? null,
    publicJwk: row.public_jwk,
    keyId: row.key_id,
    nonce: row.nonce,
    sealed: row.sealed,
  };
}
