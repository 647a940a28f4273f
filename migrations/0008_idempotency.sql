-- Up Migration

-- Requests that carried an Idempotency-Key, and what was answered. `run` is the execution that holds the
-- lease; once `status` is set it is over. The answer is sealed, since it may hold a secret that is shown
-- once; it is null when it was too large to keep.
create table noa.idempotency_keys (
  subject text not null,
  key text not null,
  fingerprint bytea not null,
  run uuid not null,
  leased_until timestamptz not null,
  status smallint,
  seal_key text,
  nonce bytea,
  sealed bytea,
  expires_at timestamptz not null,
  primary key (subject, key)
);
create index idempotency_keys_expires on noa.idempotency_keys (expires_at);

-- Down Migration

drop table noa.idempotency_keys;
