-- Up Migration

-- A pinned plugin keeps its version: no upgrade, rollback or approved candidate replaces it.
alter table noa.plugins add column pinned boolean not null default false;

-- Down Migration

alter table noa.plugins drop column pinned;
