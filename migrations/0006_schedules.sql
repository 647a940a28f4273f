-- Up Migration

-- When each schedule of a plugin fires next. `spec` is what its times are computed from: with another one
-- the row begins anew. The host that fires holds the lease.
create table noa.schedules (
  plugin text not null references noa.plugins (name) on delete cascade deferrable initially deferred,
  name text not null,
  spec text not null,
  next_at timestamptz not null,
  leased_by text,
  leased_until timestamptz,
  primary key (plugin, name)
);

-- Down Migration

drop table noa.schedules;
