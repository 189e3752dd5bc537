-- Capture: what triggers on the application's tables write, inside the application's transactions.

-- --- tables

create table bridge.outbox (
    id          bigint      generated always as identity,
    event_type  text        not null,
    payload     jsonb       not null,
    captured_at timestamptz not null default clock_timestamp(),
    constraint outbox_pkey primary key (id)
) with (
    -- Rows live for milliseconds. The table is mostly empty, so a share of its size is a poor
    -- threshold: vacuum after a fixed number of dead rows.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 1000000
);
comment on table bridge.outbox is
    'Queue of captured events: triggers insert, the drain deletes. Almost empty in normal operation.';
comment on column bridge.outbox.id is
    'Insertion order, not commit order: a smaller id may become visible after a larger one.';
comment on column bridge.outbox.payload is
    'jsonb rather than json: text that jsonb rejects fails inside the trigger, which catches the error, and not in the drain.';
comment on column bridge.outbox.captured_at is 'Wall-clock time when the trigger fired.';
comment on index bridge.outbox_pkey is 'drain: the next ids above the watermark, and single ids below it.';

create unlogged table bridge.transaction_notes (
    xact  xid8  not null default pg_current_xact_id(),
    topic text  not null,
    key   text  not null,
    value jsonb not null,
    constraint transaction_notes_pkey primary key (xact, topic, key)
);
comment on table bridge.transaction_notes is
    'Notes that one rule leaves for another within a transaction, such as "this ticket was opened here". Unlogged: a note is meaningless once its transaction has ended, and a crash ends every transaction. Upkeep deletes old notes.';
comment on column bridge.transaction_notes.xact is 'The transaction that wrote the note. Only it reads the note.';
comment on index bridge.transaction_notes_pkey is 'noted(): one note of the current transaction.';

create table bridge.capture_rules (
    name                text        not null,
    table_name          text        not null,
    trigger_name        text        not null,
    function_name       text        not null,
    trigger_sql         text        not null,
    function_sql        text        not null,
    trigger_definition  text,
    function_definition text,
    applied_at          timestamptz not null default now(),
    paused_at           timestamptz,
    failure_count       bigint      not null default 0,
    last_failed_at      timestamptz,
    last_error          text,
    constraint capture_rules_pkey primary key (name)
);
comment on table bridge.capture_rules is
    'The installed capture rules. init compares them with its configuration; uninstall removes them.';
comment on column bridge.capture_rules.table_name is 'The application''s table, quoted and schema-qualified.';
comment on column bridge.capture_rules.trigger_sql is 'The CREATE TRIGGER statement that created the trigger.';
comment on column bridge.capture_rules.function_sql is
    'The CREATE FUNCTION statement of the active rule. resume runs it again.';
comment on column bridge.capture_rules.trigger_definition is
    'pg_get_triggerdef() after creation. If it returns something else now, the trigger was changed by hand.';
comment on column bridge.capture_rules.function_definition is
    'pg_get_functiondef() after creation or after the last pause or resume.';
comment on column bridge.capture_rules.paused_at is
    'When the rule was paused; null if it is active. Changes made while a rule is paused are never captured.';
comment on column bridge.capture_rules.failure_count is
    'Events of this rule whose payload could not be computed, since the rule was last applied.';
comment on column bridge.capture_rules.last_error is 'Error message of the most recent failure.';

create sequence bridge.doorbell as smallint minvalue 0 maxvalue 1;
comment on sequence bridge.doorbell is
    'Whether triggers send NOTIFY: last_value 0 rings, 1 is quiet. A commit with NOTIFY holds a cluster-wide lock until its WAL is flushed, so the drainer silences the doorbell under load and polls instead. A sequence because setval() takes effect at once and pg_sequence_last_value() reads a single buffer.';
-- Quiet until a bridge starts to drain.
select setval('bridge.doorbell', 1);

-- --- functions that rules call

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
    'Leaves a note for the rest of the current transaction. The first note with a topic and key wins. A key too long for the index is ignored.';

create function bridge.noted(p_topic text, p_key text) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select value
    from bridge.transaction_notes
    where xact = pg_current_xact_id_if_assigned() and topic = p_topic and key = p_key
$$;
comment on function bridge.noted(text, text) is
    'Returns the current transaction''s note, or null.';

create function bridge.take_note(p_topic text, p_key text) returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
    delete from bridge.transaction_notes
    where xact = pg_current_xact_id_if_assigned() and topic = p_topic and key = p_key
    returning value
$$;
comment on function bridge.take_note(text, text) is
    'Deletes the current transaction''s note and returns it, or null.';

create function bridge.is_ours(p_xid xid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- age() counts from the current transaction. Its savepoints have younger ids, and so may other
    -- transactions.
    select age(p_xid) <= 0
       and pg_xact_status((pg_current_xact_id()::text::bigint - age(p_xid))::text::xid8) = 'in progress'
$$;
comment on function bridge.is_ours(xid) is
    'Returns whether the current transaction, or one of its savepoints, wrote a visible row version. The argument is the row''s xmin or xmax, which is then still in progress.';

create function bridge.failed_capture(p_table oid, p_row jsonb, p_error text) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('_capture_error', p_error) || (
        select coalesce(jsonb_object_agg(a.attname, p_row -> a.attname::text), '{}')
        from pg_index i
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
        where i.indrelid = p_table and i.indisprimary and p_row is not null)
$$;
comment on function bridge.failed_capture(oid, jsonb, text) is
    'Returns the payload to use when the real one cannot be computed: the error and the row''s primary key.';

create function bridge.ring() returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    select pg_notify('bridge_outbox', '') where pg_sequence_last_value('bridge.doorbell') = 0
$$;
comment on function bridge.ring() is
    'The doorbell: notifies the drainer, at commit, that the outbox has rows, unless the doorbell is quiet. Call it after inserting the row: a transaction that saw "quiet" then has an xid, and the drainer waits for that xid before it stops polling. Triggers inline the same condition, which is faster.';

-- --- events made by hand

create function bridge.is_event_type(p_text text) returns boolean
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select p_text ~ '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$'
$$;
comment on function bridge.is_event_type(text) is
    'Returns whether a text is an exact event type, such as order.paid, and not a pattern.';

create function bridge.emit(p_event_type text, p_payload jsonb default '{}') returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_event_type is null or not bridge.is_event_type(p_event_type) or length(p_event_type) > 255 then
        raise 'invalid event type: %', coalesce(p_event_type, 'null')
            using errcode = 'invalid_parameter_value',
                  hint = 'Use letters, digits, _ and -, in parts joined by dots, such as order.paid.';
    end if;
    if p_payload is null then
        raise 'the payload must be JSON, not null' using errcode = 'invalid_parameter_value';
    end if;
    insert into bridge.outbox (event_type, payload) values (p_event_type, p_payload);
    perform bridge.ring();
end
$$;
comment on function bridge.emit(text, jsonb) is
    'Emits an event by hand. After the commit it goes to the live stream and to webhooks like a captured event.';
