-- What triggers on the application's tables write, inside the application's own transactions.

create table bridge.outbox (
    id          bigint generated always as identity,
    event_type  text        not null,
    payload     jsonb       not null,
    captured_at timestamptz not null default clock_timestamp(),
    constraint outbox_pkey primary key (id)
) with (
    -- Rows live for milliseconds: vacuum by count, never by share of a table that is mostly empty.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 1000000
);
comment on table bridge.outbox is
    'Queue of captured events: written by triggers, emptied by the drain. Normally almost empty.';
comment on column bridge.outbox.id is
    'In order of writing, which is not the order of commits: a smaller id may become visible later.';
comment on column bridge.outbox.payload is
    'jsonb rather than json, so that text which jsonb refuses fails in the trigger''s guard and not in the drain.';
comment on column bridge.outbox.captured_at is 'Wall-clock time at which the trigger fired.';
comment on index bridge.outbox_pkey is 'drain: the next ids above the mark, and single ids below it.';

create unlogged table bridge.transaction_notes (
    xact  xid8  not null default pg_current_xact_id(),
    topic text  not null,
    key   text  not null,
    value jsonb not null,
    constraint transaction_notes_pkey primary key (xact, topic, key)
);
comment on table bridge.transaction_notes is
    'What one rule leaves for another within the same transaction, such as "this ticket was opened here". Unlogged: a note means nothing once its transaction has ended, and a crash ends them all. Upkeep deletes old ones.';
comment on column bridge.transaction_notes.xact is 'The transaction that wrote the note, and the only one that reads it.';
comment on index bridge.transaction_notes_pkey is 'noted(): one note of the current transaction.';

create function bridge.note(p_topic text, p_key text, p_value jsonb) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    insert into bridge.transaction_notes (topic, key, value)
    select p_topic, p_key, p_value
    -- A longer key does not fit into the index, and the application's statement would fail.
    where octet_length(p_topic) + octet_length(p_key) <= 1000
    on conflict on constraint transaction_notes_pkey do nothing
$$;
comment on function bridge.note(text, text, jsonb) is
    'Leaves a note for the rest of the current transaction; the first note of a topic and key stays. A key too long to be indexed is not noted.';

create function bridge.noted(p_topic text, p_key text) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select value
    from bridge.transaction_notes
    where xact = pg_current_xact_id_if_assigned() and topic = p_topic and key = p_key
$$;
comment on function bridge.noted(text, text) is
    'The note that the current transaction left, or null.';

create function bridge.ring() returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    select pg_notify('bridge_outbox', '')
$$;
comment on function bridge.ring() is
    'The doorbell: tells the drainer, at commit, that the outbox has something. The only place that rings it.';

create table bridge.capture_rules (
    name              text        not null,
    table_name        text        not null,
    trigger_name      text        not null,
    function_name     text        not null,
    trigger_checksum  text        not null,
    function_checksum text        not null,
    applied_at        timestamptz not null default now(),
    constraint capture_rules_pkey primary key (name)
);
comment on table bridge.capture_rules is
    'The capture rules as they were applied: what the next init compares with, and what uninstall removes.';
comment on column bridge.capture_rules.table_name is 'The application''s table, quoted and with its schema.';
comment on column bridge.capture_rules.trigger_checksum is 'SHA-256 of the CREATE TRIGGER statement that was run.';
comment on column bridge.capture_rules.function_checksum is 'SHA-256 of the CREATE FUNCTION statement that was run.';
