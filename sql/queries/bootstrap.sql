-- Creates the schema and the table of applied migrations, before the first migration.
create schema bridge;
comment on schema bridge is 'pgbridge: captured events, their log, and the deliveries made of them.';
create table bridge.migrations (
    version    integer     not null,
    name       text        not null,
    checksum   text        not null,
    applied_at timestamptz not null default now(),
    constraint migrations_pkey primary key (version)
);
comment on table bridge.migrations is 'Which migrations this schema has had, in order.';
comment on column bridge.migrations.checksum is 'SHA-256 of the file: a released file is never edited.';
