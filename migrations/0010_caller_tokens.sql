-- Up Migration

-- Capability tokens of machine callers that are alive; the token itself is kept nowhere. A token ends with
-- its row, and with that of any token that it descends from.
create table noa.caller_tokens (
  id uuid primary key,
  parent uuid references noa.caller_tokens (id) on delete cascade,
  subject text not null,
  calls text[] not null,
  rights jsonb,
  budget jsonb,
  level text,
  created_by text not null,
  created_at timestamptz not null,
  expires_at timestamptz not null
);
create index caller_tokens_parent on noa.caller_tokens (parent);
create index caller_tokens_expires on noa.caller_tokens (expires_at);

-- Down Migration

drop table noa.caller_tokens;
