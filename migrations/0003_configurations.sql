-- Up Migration

-- What administrators set of a plugin's configuration. `settings` has null where a value is secret;
-- those values, in the order of `secrets` (JSON Pointers), are one sealed JSON text. `version` outlives
-- no plugin and rises with every change.
create table noa.configurations (
  plugin text primary key references noa.plugins (name) on delete cascade deferrable initially deferred,
  version bigint not null,
  settings json not null,
  secrets text[] not null,
  key_id text not null,
  nonce bytea not null,
  sealed bytea not null,
  updated_at timestamptz not null
);

-- Down Migration

drop table noa.configurations;
