-- The doorbell becomes one that can be switched off: a commit that has NOTIFYed takes a lock of the
-- whole cluster until its WAL is flushed, so in busy times the drainer polls and nobody rings.

create sequence bridge.doorbell as smallint minvalue 0 maxvalue 1;
comment on sequence bridge.doorbell is
    'Whether triggers ring: last_value 0 ring, 1 quiet. A sequence because setting it waits for no commit and reading it (pg_sequence_last_value) costs one look at a buffer. Quiet until a bridge drains.';
-- Where no bridge runs there is nobody to ring for.
select setval('bridge.doorbell', 1);

create or replace function bridge.ring() returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    select pg_notify('bridge_outbox', '') where pg_sequence_last_value('bridge.doorbell') = 0
$$;
comment on function bridge.ring() is
    'The doorbell: unless it is quiet, tells the drainer, at commit, that the outbox has something. To be called after the row was written: a transaction that saw "quiet" then has an xid, and the drainer waits for it before it stops polling. Triggers have the same condition written out, which is faster.';

create table bridge.drainer (
    is_only       boolean     not null default true,
    bridge        text        not null,
    mode          text        not null,
    is_quiet      boolean     not null,
    switches      bigint      not null default 0,
    switched_at   timestamptz not null default clock_timestamp(),
    leading_since timestamptz not null default clock_timestamp(),
    constraint drainer_pkey primary key (is_only),
    constraint drainer_is_only check (is_only),
    constraint drainer_mode_known check (mode in ('adaptive', 'notify', 'poll'))
);
comment on table bridge.drainer is
    'The bridge that drains, or drained last: one row. Whether it still does, its advisory lock tells.';
comment on column bridge.drainer.is_only is 'Always true: there is one row.';
comment on column bridge.drainer.bridge is 'Its machine and process, host:pid.';
comment on column bridge.drainer.mode is
    'BRIDGE_DOORBELL. adaptive: rings when events are rare, polls when they are many. notify: always rings. poll: never rings.';
comment on column bridge.drainer.is_quiet is 'What it set the doorbell to.';
comment on column bridge.drainer.switches is 'How often it has switched the doorbell since leading_since.';
comment on column bridge.drainer.switched_at is 'When it set the doorbell last.';
