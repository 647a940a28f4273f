-- Up Migration

-- Raised by every change; a host that sees a new value reads the state again. Its row is also the lock
-- that makes administrative changes take turns across hosts.
create table noa.revision (
  singleton boolean primary key default true check (singleton),
  value bigint not null default 0
);
insert into noa.revision default values;

create table noa.plugins (
  name text primary key,
  enabled boolean not null,
  active text not null,
  candidate text,
  previous text
);

create table noa.versions (
  plugin text not null references noa.plugins (name) on delete cascade deferrable initially deferred,
  digest text not null,
  version text not null,
  manifest json not null,
  bundle bytea not null,
  installed_at timestamptz not null,
  primary key (plugin, digest)
);
-- A bundle is compressed already.
alter table noa.versions alter column bundle set storage external;
create index versions_digest on noa.versions (digest);

create table noa.grants (
  id text primary key,
  plugin text not null references noa.plugins (name) on delete cascade deferrable initially deferred,
  capability text not null,
  operations text[] not null,
  resources text[] not null,
  requested_operations text[],
  requested_resources text[],
  optional boolean not null,
  reason text not null,
  status text not null check (status in ('pending', 'approved', 'revoked')),
  created_at timestamptz not null,
  decided_at timestamptz,
  decided_by text
);
create index grants_plugin on noa.grants (plugin);

create table noa.token_keys (
  kid text primary key,
  created_at timestamptz not null,
  retired_at timestamptz
);

-- Removed plugins whose data is still to be deleted.
create table noa.leftovers (
  plugin text primary key
);

-- One chain a host. `body` is the record as JSON text: what was hashed is kept to the letter.
create table noa.audit (
  position bigint generated always as identity primary key,
  chain text not null,
  seq bigint not null,
  plugin text,
  body text not null,
  unique (chain, seq)
);
create index audit_plugin on noa.audit (plugin, position desc);

-- Down Migration

drop table noa.audit;
drop table noa.leftovers;
drop table noa.token_keys;
drop table noa.grants;
drop table noa.versions;
drop table noa.plugins;
drop table noa.revision;
