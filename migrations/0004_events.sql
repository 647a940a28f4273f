-- Up Migration

-- The last id given to an event. Whoever publishes holds this row from the moment it takes ids to its
-- commit, so ids become visible in their order and without a gap: who has read up to an id has read all.
create table noa.event_head (
  singleton boolean primary key default true check (singleton),
  last bigint not null default 0
);
insert into noa.event_head default values;

create table noa.events (
  id bigint primary key,
  source text not null,
  type text not null,
  subject text not null,
  time timestamptz not null,
  data json not null,
  bytes integer not null
);
create index events_time on noa.events (time);
create index events_source on noa.events (source, id);

-- How far each subscription of a plugin has come. A host delivers while it holds the lease.
create table noa.subscriptions (
  plugin text not null references noa.plugins (name) on delete cascade deferrable initially deferred,
  subject text not null,
  export text not null,
  cursor bigint not null,
  attempts integer not null default 0,
  next_at timestamptz not null default now(),
  leased_by text,
  leased_until timestamptz,
  primary key (plugin, subject, export)
);

-- Events that a plugin failed to take as often as it may.
create table noa.dead_letters (
  id bigint generated always as identity primary key,
  plugin text not null references noa.plugins (name) on delete cascade deferrable initially deferred,
  subject text not null,
  export text not null,
  event json not null,
  attempts integer not null,
  code text not null,
  reason text not null,
  failed_at timestamptz not null default now()
);
create index dead_letters_plugin on noa.dead_letters (plugin, id);

-- Down Migration

drop table noa.dead_letters;
drop table noa.subscriptions;
drop table noa.events;
drop table noa.event_head;
