-- What one statement cannot process is set aside with the reason, and stops nothing else.

-- --- texts that UTF-8 does not have, which no client can read

create function bridge.utf8_text(p_text text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_result text := '';
    v_at     integer := 1;
    v_until  integer;
    v_length integer;
begin
    while v_at <= length(p_text) loop
        v_until := v_at + 1000;
        begin
            perform convert_to(substr(p_text, v_at, 1000), 'UTF8');
            v_result := v_result || substr(p_text, v_at, 1000);
            v_at := v_until;
        exception when untranslatable_character or character_not_in_repertoire then
            null; -- Search this part.
        end;
        while v_at < v_until and v_at <= length(p_text) loop
            v_length := 1;
            while v_length <= 4 loop
                begin
                    perform convert_to(substr(p_text, v_at, v_length), 'UTF8');
                    exit;
                exception when untranslatable_character or character_not_in_repertoire then
                    -- In SQL_ASCII, each byte is a character of its own.
                    v_length := v_length + 1;
                end;
            end loop;
            if v_length <= 4 then
                v_result := v_result || substr(p_text, v_at, v_length);
                v_at := v_at + v_length;
            else
                v_result := v_result || '<'
                    || encode(convert_to(substr(p_text, v_at, 1), getdatabaseencoding()), 'hex') || '>';
                v_at := v_at + 1;
            end if;
        end loop;
    end loop;
    return v_result;
end
$$;
comment on function bridge.utf8_text(text) is
    'Returns a text with each character that UTF-8 does not have replaced by its bytes in hexadecimal, such as <98>. Only databases with another encoding have such characters.';

update bridge.webhooks
set name = bridge.utf8_text(name), url = bridge.utf8_text(url), description = bridge.utf8_text(description)
where (name, url, description) is distinct from
      (bridge.utf8_text(name), bridge.utf8_text(url), bridge.utf8_text(description));
alter table bridge.webhooks add constraint webhooks_texts_readable check (
    getdatabaseencoding() = 'UTF8'
    or bridge.utf8_text(concat_ws(' ', name, url, event_type, description, filter::text, secret, previous_secret))
       = concat_ws(' ', name, url, event_type, description, filter::text, secret, previous_secret));

create or replace function bridge.failed_capture(p_table oid, p_row jsonb, p_error text) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- JSON has no syntax that utf8_text could break: < and > stand in strings.
    select bridge.utf8_text((
        jsonb_build_object('_capture_error', p_error) || (
            select coalesce(jsonb_object_agg(a.attname, p_row -> a.attname::text), '{}')
            from pg_index i
            join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
            where i.indrelid = p_table and i.indisprimary and p_row is not null))::text)::jsonb
$$;

-- --- texts that the database's encoding does not have

create function bridge.storable_text(p_utf8 bytea) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_result text := '';
    v_at     integer := 0;
    v_byte   integer;
    v_length integer;
begin
    begin
        return convert_from(p_utf8, 'UTF8');
    exception when untranslatable_character then
        null; -- Search it.
    end;
    while v_at < octet_length(p_utf8) loop
        v_byte := get_byte(p_utf8, v_at);
        v_length := case when v_byte < 128 then 1 when v_byte < 224 then 2 when v_byte < 240 then 3 else 4 end;
        begin
            v_result := v_result || convert_from(substr(p_utf8, v_at + 1, v_length), 'UTF8');
        exception when untranslatable_character then
            v_result := v_result || '?';
        end;
        v_at := v_at + v_length;
    end loop;
    return v_result;
end
$$;
comment on function bridge.storable_text(bytea) is
    'Returns a text in UTF-8 with each character that the database''s encoding does not have replaced by a question mark.';

-- --- events that the drain cannot process

alter table bridge.dead_letters drop constraint dead_letters_pkey;
alter table bridge.dead_letters add column id bigint generated always as identity;
alter table bridge.dead_letters add constraint dead_letters_pkey primary key (id);
alter table bridge.dead_letters add constraint dead_letters_outbox_id_key unique (outbox_id);
comment on table bridge.dead_letters is
    'Events that PostgreSQL could not process in the drain. An event with _capture_error took the place of each, unless that failed as well.';
comment on column bridge.dead_letters.outbox_id is 'The event''s outbox.id.';
comment on column bridge.dead_letters.reason is 'The error of the drain.';

create function bridge.set_event_aside(
    p_outbox_id bigint, p_reason text, out dead_letter_id bigint, out event_type text
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_event bridge.outbox;
begin
    delete from bridge.outbox where id = p_outbox_id returning * into v_event;
    insert into bridge.dead_letters (outbox_id, event_type, payload, captured_at, reason)
    select v_event.id, v_event.event_type, v_event.payload, v_event.captured_at, p_reason
    where v_event.id is not null
    on conflict on constraint dead_letters_outbox_id_key do nothing
    returning id into dead_letter_id;
    event_type := bridge.utf8_text(v_event.event_type);
    -- Without an id, this was the replacement of an event that was set aside before.
    if dead_letter_id is not null and event_type = v_event.event_type then
        begin
            insert into bridge.outbox (id, event_type, payload, captured_at)
            overriding system value
            values (v_event.id, event_type,
                    jsonb_build_object('_capture_error', p_reason, 'dead_letter', dead_letter_id),
                    v_event.captured_at);
        exception when others then
            null; -- The dead letter is enough.
        end;
    end if;
end
$$;
comment on function bridge.set_event_aside(bigint, text) is
    'Moves an event that the drain cannot process to dead_letters, and puts one with _capture_error in its place. If the drain cannot process that one either, it is deleted.';

revoke execute on function bridge.utf8_text(text) from public;
revoke execute on function bridge.storable_text(bytea) from public;
revoke execute on function bridge.set_event_aside(bigint, text) from public;
