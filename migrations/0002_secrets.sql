-- Up Migration

-- Values that administrators hand to plugins, sealed by AES-256-GCM with a key from `auth.root_key`:
-- what is here is worth nothing without that key. `key_id` tells which root key sealed it.
create table noa.secrets (
  name text primary key,
  version bigint not null,
  key_id text not null,
  nonce bytea not null,
  sealed bytea not null,
  created_at timestamptz not null,
  updated_at timestamptz not null
);

-- Down Migration

drop table noa.secrets;
