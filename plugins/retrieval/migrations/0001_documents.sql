-- The documents of a collection, cut and embedded in one way. A collection has one that answers and, while it is
-- indexed anew, another that is built. One that no collection has is erased.
create table indexes (
  id bigint generated always as identity primary key,
  model text not null,
  dimensions integer not null,
  chunk_tokens integer not null,
  chunk_overlap integer not null,
  -- Not erased before: a collection is about to have it, or calls that began before may still use it.
  kept_until timestamptz not null default now() + interval '10 minutes'
);

create table collections (
  name text primary key,
  description text,
  index_id bigint not null unique references indexes (id),
  building_id bigint unique references indexes (id),
  -- Why the last attempt to index it anew was given up.
  reindex_error text,
  -- Who indexes it anew now has it until then.
  leased_until timestamptz not null default now(),
  created_at timestamptz not null default now()
);

create table documents (
  index_id bigint not null references indexes (id) on delete cascade,
  id text not null,
  title text,
  source text,
  media_type text not null,
  metadata jsonb not null,
  -- SHA-256 of what was sent.
  hash text not null,
  state text not null check (state in ('embedding', 'ready', 'failed', 'deleting')),
  chunks integer not null,
  embedded integer not null default 0,
  error text,
  -- Who embeds it now has it until then.
  leased_until timestamptz not null default now(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  -- Its version: each time that it is written is another.
  seq bigint generated always as identity,
  -- The version of another index that it is a copy of.
  origin bigint,
  primary key (index_id, id)
);
create index documents_seq on documents (index_id, seq);
create index documents_open on documents (leased_until) where state in ('embedding', 'deleting');

-- The text of a document is that of its chunks, without what each has in common with the one before.
create table chunks (
  index_id bigint not null,
  document text not null,
  seq integer not null,
  -- The spaces between the chunk before and this one.
  gap text not null,
  text text not null,
  start_at integer not null,
  end_at integer not null,
  page integer,
  line integer,
  end_line integer,
  headings jsonb not null,
  -- The blocks that begin in it.
  blocks jsonb not null,
  -- The indices of its terms, each once.
  terms jsonb not null,
  primary key (index_id, document, seq),
  foreign key (index_id, document) references documents (index_id, id) on delete cascade
);

-- In how many chunks of an index a term stands.
create table terms (
  index_id bigint not null references indexes (id) on delete cascade,
  term bigint not null,
  chunks integer not null,
  primary key (index_id, term)
);
