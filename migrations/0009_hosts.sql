-- Up Migration

-- The hosts that share this database: each says every few seconds that it is there.
create table noa.hosts (
  id text primary key,
  version text not null,
  url text not null,
  started_at timestamptz not null,
  seen_at timestamptz not null
);

-- Down Migration

drop table noa.hosts;
