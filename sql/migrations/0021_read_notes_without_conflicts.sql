-- Notes in SERIALIZABLE transactions: reading the table, even to find nothing, locks pages of its index, so
-- that PostgreSQL would take unrelated transactions for conflicting ones. An insert that meets its own row
-- locks nothing.

alter table bridge.transaction_notes alter column value drop not null;
comment on column bridge.transaction_notes.value is
    'Null: a serializable transaction looked for this note and did not find it, or has taken it.';

create function bridge.note_of_serializable(p_topic text, p_key text, p_take boolean) returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The condition hands over the existing value without a new version of its row: many rows may ask for
    -- one note.
    perform set_config('bridge.noted', '', true);
    insert into bridge.transaction_notes as n (topic, key)
    select p_topic, p_key
    where octet_length(p_topic) + octet_length(p_key) <= 1000
    on conflict on constraint transaction_notes_pkey do update
    set value = null
    where case when set_config('bridge.noted', coalesce(n.value::text, ''), true) = '' then false else p_take end;
    return nullif(current_setting('bridge.noted'), '')::jsonb;
end
$$;
comment on function bridge.note_of_serializable(text, text, boolean) is
    'noted() and, with p_take, take_note() in a serializable transaction.';
revoke execute on function bridge.note_of_serializable(text, text, boolean) from public;

create or replace function bridge.note(p_topic text, p_key text, p_value jsonb) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    insert into bridge.transaction_notes as n (topic, key, value)
    select p_topic, p_key, p_value
    -- A longer key does not fit into the index, and the application's statement would fail.
    where octet_length(p_topic) + octet_length(p_key) <= 1000
    on conflict on constraint transaction_notes_pkey do update
    set value = excluded.value
    where n.value is null
$$;

create or replace function bridge.noted(p_topic text, p_key text) returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_isolation') = 'serializable' then
        return bridge.note_of_serializable(p_topic, p_key, false);
    end if;
    return (
        select value
        from bridge.transaction_notes
        where xact = pg_current_xact_id_if_assigned() and topic = p_topic and key = p_key);
end
$$;

create or replace function bridge.take_note(p_topic text, p_key text) returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_value jsonb;
begin
    if current_setting('transaction_isolation') = 'serializable' then
        return bridge.note_of_serializable(p_topic, p_key, true);
    end if;
    delete from bridge.transaction_notes
    where xact = pg_current_xact_id_if_assigned() and topic = p_topic and key = p_key
    returning value into v_value;
    return v_value;
end
$$;
