-- Up Migration

-- Lists of scopes that identities have by name.
create table noa.auth_roles (
  name text primary key,
  description text not null,
  scopes text[] not null,
  created_at timestamptz not null,
  updated_at timestamptz not null
);

-- Users and clients: `user:alice`, `client:billing`. A client's secret is 256 random bits, of which the
-- SHA-256 digest is kept: there is nothing to guess, so nothing to slow down. `issuer` is the name of an
-- issuer in the configuration, `external_subject` what its tokens call this user.
create table noa.auth_identities (
  subject text primary key check (subject ~ '^(user|client):'),
  description text not null,
  roles text[] not null,
  scopes text[] not null,
  level text,
  disabled boolean not null,
  secret_digest bytea,
  issuer text,
  external_subject text,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  unique (issuer, external_subject)
);

-- What a client was given at the token endpoint: all tokens of one family. `serial` counts refreshes, and
-- only the refresh token with this number is good; one with a lower number was spent.
create table noa.auth_sessions (
  id text primary key,
  subject text not null references noa.auth_identities (subject) on delete cascade,
  scopes text[] not null,
  serial integer not null,
  created_at timestamptz not null,
  used_at timestamptz not null,
  expires_at timestamptz not null
);
create index auth_sessions_subject on noa.auth_sessions (subject, used_at);
create index auth_sessions_expiry on noa.auth_sessions (expires_at);

create table noa.auth_api_keys (
  id text primary key,
  subject text not null references noa.auth_identities (subject) on delete cascade,
  description text not null,
  digest bytea not null,
  scopes text[] not null,
  created_at timestamptz not null,
  expires_at timestamptz
);
create index auth_api_keys_subject on noa.auth_api_keys (subject);

-- RSA keys that sign access tokens; the private half is sealed with a key from `auth.root_key`.
create table noa.auth_signing_keys (
  kid text primary key,
  created_at timestamptz not null,
  retired_at timestamptz,
  public_jwk json not null,
  key_id text not null,
  nonce bytea not null,
  sealed bytea not null
);

-- Down Migration

drop table noa.auth_signing_keys;
drop table noa.auth_api_keys;
drop table noa.auth_sessions;
drop table noa.auth_identities;
drop table noa.auth_roles;
