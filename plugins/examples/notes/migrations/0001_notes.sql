create table notes (
  id text primary key,
  seq bigint generated always as identity unique,
  text text not null,
  created_at timestamptz not null default now()
);
