-- Rules remember the SQL they were made of and what the database made of it, so that a rule can be
-- paused and resumed without its file, and a change by another hand is seen.

alter table bridge.capture_rules
    drop column trigger_checksum,
    drop column function_checksum,
    -- Empty: made before these columns; the next init makes the rule anew.
    add column trigger_sql         text   not null default '',
    add column function_sql        text   not null default '',
    add column trigger_definition  text,
    add column function_definition text,
    add column paused_at           timestamptz,
    add column failure_count       bigint not null default 0,
    add column last_failed_at      timestamptz,
    add column last_error          text;
comment on column bridge.capture_rules.trigger_sql is 'The CREATE TRIGGER statement that was run.';
comment on column bridge.capture_rules.function_sql is 'The CREATE FUNCTION statement of the rule at work.';
comment on column bridge.capture_rules.trigger_definition is
    'pg_get_triggerdef() of what was made: another answer now means that somebody changed it.';
comment on column bridge.capture_rules.function_definition is
    'pg_get_functiondef() of what was made, paused or at work.';
comment on column bridge.capture_rules.paused_at is
    'Since when it captures nothing, because somebody said so; null while it is at work. What happens meanwhile is never captured.';
comment on column bridge.capture_rules.failure_count is
    'Events of this rule, as it is applied now, whose payload could not be computed.';
comment on column bridge.capture_rules.last_error is 'Why the last of them could not.';

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
    'The payload of an event whose own payload cannot be computed: why not, and the row''s primary key.';

create function bridge.take_note(p_topic text, p_key text) returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
    delete from bridge.transaction_notes
    where xact = pg_current_xact_id_if_assigned() and topic = p_topic and key = p_key
    returning value
$$;
comment on function bridge.take_note(text, text) is
    'The note that the current transaction left, which is then gone; null if it left none.';

create function bridge.is_ours(p_xid xid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- age() counts from the current transaction; its savepoints are younger, and so are others'.
    select age(p_xid) <= 0
       and pg_xact_status((pg_current_xact_id()::text::bigint - age(p_xid))::text::xid8) = 'in progress'
$$;
comment on function bridge.is_ours(xid) is
    'Whether a version of a row that can be seen was written by the current transaction or a savepoint of it: its xmin, or xmax, is then still in progress.';
