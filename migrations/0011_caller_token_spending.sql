-- Up Migration

-- What all hosts together have told of spending: calls, rows, tokens, bytes, ms, where they are not 0.
alter table noa.caller_tokens add column spent jsonb not null default '{}';

-- Down Migration

alter table noa.caller_tokens drop column spent;
