create table collections (
  name text primary key,
  description text,
  model text not null,
  dimensions integer not null,
  chunk_tokens integer not null,
  chunk_overlap integer not null,
  created_at timestamptz not null default now()
);

create table documents (
  collection text not null references collections (name) on delete cascade,
  id text not null,
  title text,
  source text,
  media_type text not null,
  metadata jsonb not null,
  -- SHA-256 of all that its chunks are made of.
  hash text not null,
  state text not null check (state in ('embedding', 'ready', 'failed', 'deleting')),
  chunks integer not null,
  embedded integer not null default 0,
  error text,
  -- Who embeds it now has it until then.
  leased_until timestamptz not null default now(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  seq bigint generated always as identity,
  primary key (collection, id)
);
create index documents_seq on documents (collection, seq);
create index documents_open on documents (leased_until) where state in ('embedding', 'deleting');

create table chunks (
  collection text not null,
  document text not null,
  seq integer not null,
  text text not null,
  start_at integer not null,
  end_at integer not null,
  page integer,
  headings jsonb not null,
  -- The indices of its terms, each once.
  terms jsonb not null,
  primary key (collection, document, seq),
  foreign key (collection, document) references documents (collection, id) on delete cascade
);

-- In how many chunks of a collection a term stands.
create table terms (
  collection text not null references collections (name) on delete cascade,
  term bigint not null,
  chunks integer not null,
  primary key (collection, term)
);
