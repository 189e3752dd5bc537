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
    begin
        perform convert_to(p_text, 'UTF8');
        return p_text;
    exception when untranslatable_character or character_not_in_repertoire then
        null; -- Search it. The time is quadratic, so callers limit the length.
    end;
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
                    -- In SQL_ASCII, every byte counts as a character.
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
    -- It stays JSON: beyond ASCII, JSON has characters only in strings.
    select bridge.utf8_text((
        jsonb_build_object('_capture_error', left(p_error, 2000)) || (
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

create function bridge.is_of_values(p_sqlstate text) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select p_sqlstate ~ '^(22|23|P0|54|53200|XX)'
$$;
comment on function bridge.is_of_values(text) is
    'Returns whether some value made a statement fail, so that others need not fail. The same as in bridge/database/errors.py.';

alter table bridge.dead_letters drop constraint dead_letters_pkey;
alter table bridge.dead_letters add column id bigint generated always as identity;
alter table bridge.dead_letters add constraint dead_letters_pkey primary key (id);
create index dead_letters_outbox_id on bridge.dead_letters (outbox_id);
comment on index bridge.dead_letters_outbox_id is 'set_event_aside: the dead letter that an event replaces.';
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
    event_type := bridge.utf8_text(left(v_event.event_type, 255));
    -- The replacement of an event that was set aside: that dead letter is enough.
    select id into dead_letter_id
    from bridge.dead_letters
    where outbox_id = v_event.id and v_event.payload ? '_capture_error'
      and v_event.payload @> jsonb_build_object('dead_letter', id);
    if found or v_event.id is null then
        return;
    end if;
    insert into bridge.dead_letters (outbox_id, event_type, payload, captured_at, reason)
    values (v_event.id, v_event.event_type, v_event.payload, v_event.captured_at, p_reason)
    returning id into dead_letter_id;
    if event_type <> v_event.event_type then
        return; -- No client could read its type, or it is no type at all.
    end if;
    begin
        insert into bridge.outbox (id, event_type, payload, captured_at)
        overriding system value
        values (v_event.id, event_type,
                jsonb_build_object('_capture_error', p_reason, 'dead_letter', dead_letter_id),
                v_event.captured_at);
    exception when others then
        if not bridge.is_of_values(sqlstate) then
            raise;
        end if;
    end;
end
$$;
comment on function bridge.set_event_aside(bigint, text) is
    'Moves an event that the drain cannot process to dead_letters, and puts one with _capture_error in its place. If the drain cannot process that one either, it is deleted.';

revoke execute on function bridge.utf8_text(text) from public;
revoke execute on function bridge.storable_text(bytea) from public;
revoke execute on function bridge.is_of_values(text) from public;
revoke execute on function bridge.set_event_aside(bigint, text) from public;

-- --- deliveries that a statement of the courier cannot process

alter table bridge.dead_letters alter column outbox_id drop not null;
alter table bridge.dead_letters alter column payload drop not null;
alter table bridge.dead_letters add column webhook_id bigint;
alter table bridge.dead_letters add column event_id bigint;
alter table bridge.dead_letters add column event_recorded_at timestamptz;
alter table bridge.dead_letters add column committed_at timestamptz;
alter table bridge.dead_letters add constraint dead_letters_kind_known
    check (num_nonnulls(outbox_id, payload) = 2 and num_nonnulls(webhook_id, event_id, event_recorded_at) = 0
           or num_nonnulls(outbox_id, payload) = 0 and num_nonnulls(webhook_id, event_id, event_recorded_at) = 3);
comment on table bridge.dead_letters is
    'Events that PostgreSQL could not process in the drain, and deliveries that it could neither queue nor log. An event with _capture_error took the place of each event, unless that failed as well.';
comment on column bridge.dead_letters.outbox_id is 'The event''s outbox.id; null for a delivery.';
comment on column bridge.dead_letters.payload is
    'The event''s original payload; null for a delivery. Reading it as text may fail as well.';
comment on column bridge.dead_letters.captured_at is 'When the trigger fired.';
comment on column bridge.dead_letters.reason is 'PostgreSQL''s error.';
comment on column bridge.dead_letters.webhook_id is 'The delivery''s webhook; null for an event.';
comment on column bridge.dead_letters.event_id is 'The delivery''s event in the log; null for an event.';
comment on column bridge.dead_letters.event_recorded_at is 'events.recorded_at of the delivery''s event.';
comment on column bridge.dead_letters.committed_at is 'delivery_queue.committed_at of a delivery.';

create function bridge.log_apart(p_delivery bridge.delivery_log, p_reason text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_result text := p_delivery.status;
begin
    delete from bridge.delivery_queue where id = p_delivery.id;
    begin
        insert into bridge.delivery_log select p_delivery.*;
    exception when others then
        if not bridge.is_of_values(sqlstate) then
            raise;
        end if;
        begin
            -- Without what the receiver sent.
            insert into bridge.delivery_log
                (id, webhook_id, event_id, event_recorded_at, event_type, status, attempt_number,
                 error_message, created_at, captured_at, committed_at)
            values (p_delivery.id, p_delivery.webhook_id, p_delivery.event_id, p_delivery.event_recorded_at,
                    p_delivery.event_type, 'failed', p_delivery.attempt_number,
                    'cannot log the delivery: ' || bridge.utf8_text(left(sqlerrm, 2000)), p_delivery.created_at,
                    p_delivery.captured_at, p_delivery.committed_at);
            v_result := 'failed';
        exception when others then
            if not bridge.is_of_values(sqlstate) then
                raise;
            end if;
            insert into bridge.dead_letters
                (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at, reason)
            values (p_delivery.webhook_id, p_delivery.event_id, p_delivery.event_recorded_at,
                    p_delivery.event_type, coalesce(p_delivery.captured_at, p_delivery.created_at),
                    p_delivery.committed_at, p_reason);
            v_result := 'dead letter';
        end;
    end;
    begin
        update bridge.webhooks
        set delivered_count = delivered_count + (v_result = 'success')::integer,
            failed_count = failed_count + (v_result = 'failed')::integer
        where id = p_delivery.webhook_id and v_result <> 'dead letter';
    exception when others then
        if not bridge.is_of_values(sqlstate) then
            raise;
        end if;
    end;
    return v_result;
end
$$;
comment on function bridge.log_apart(bridge.delivery_log, text) is
    'Moves one delivery from the queue to the log, or if the log rejects it, to dead_letters. Returns its status, or dead letter.';

create function bridge.settle_apart(
    p_delivery_id     bigint,
    p_lease_token     uuid,
    p_attempt_number  integer,
    p_started_at      timestamptz,
    p_finished_at     timestamptz,
    p_outcome         text,
    p_retry_seconds   double precision,
    p_response_status integer,
    p_response_body   text,
    p_failure         text,
    p_error_message   text,
    p_reason          text
) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_queued    bridge.delivery_queue;
    v_delivery  bridge.delivery_log;
    v_error     text := p_error_message;
begin
    select * into v_queued
    from bridge.delivery_queue
    where id = p_delivery_id and lease_token = p_lease_token
    for update;
    if not found then
        return null;
    end if;
    begin
        insert into bridge.delivery_attempts
            (delivery_id, webhook_id, attempt_number, started_at, finished_at,
             response_status, response_body, failure, error_message)
        values (p_delivery_id, v_queued.webhook_id, p_attempt_number, p_started_at, p_finished_at,
                p_response_status, p_response_body, p_failure, p_error_message);
    exception when others then
        if not bridge.is_of_values(sqlstate) then
            raise;
        end if;
    end;
    if p_outcome = 'retry' then
        begin
            update bridge.delivery_queue
            set attempt_number = p_attempt_number,
                next_attempt_at = now() + make_interval(secs => p_retry_seconds),
                leased_until = null,
                lease_token = null,
                response_status = p_response_status,
                response_body = p_response_body,
                error_message = p_error_message
            where id = p_delivery_id;
            return 'retry';
        exception when others then
            if not bridge.is_of_values(sqlstate) then
                raise;
            end if;
            v_error := 'cannot queue the next attempt: ' || bridge.utf8_text(left(sqlerrm, 2000));
        end;
    end if;
    v_delivery.id := v_queued.id;
    v_delivery.webhook_id := v_queued.webhook_id;
    v_delivery.event_id := v_queued.event_id;
    v_delivery.event_recorded_at := v_queued.event_recorded_at;
    v_delivery.event_type := v_queued.event_type;
    v_delivery.status := case when p_outcome = 'success' then 'success' else 'failed' end;
    v_delivery.captured_at := v_queued.captured_at;
    v_delivery.committed_at := v_queued.committed_at;
    v_delivery.created_at := v_queued.created_at;
    v_delivery.claimed_at := v_queued.claimed_at;
    v_delivery.sent_at := p_started_at;
    v_delivery.acknowledged_at := case when p_outcome = 'success' then p_finished_at end;
    v_delivery.finished_at := now();
    v_delivery.attempt_number := p_attempt_number;
    v_delivery.response_status := p_response_status;
    v_delivery.response_body := p_response_body;
    v_delivery.error_message := v_error;
    return bridge.log_apart(v_delivery, p_reason);
end
$$;
comment on function bridge.settle_apart(
    bigint, uuid, integer, timestamptz, timestamptz, text, double precision, integer, text, text, text, text) is
    'Settles one attempt that settle cannot: keeps as much of its result as the tables accept. It counts neither for the circuit breaker nor as an attempt of its webhook. Returns retry, success, failed or dead letter; null if the lease is lost.';

create function bridge.give_up_next(
    p_webhook_id bigint, p_reason text, out delivery_id bigint, out event_id bigint, out attempt_number integer
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_queued   bridge.delivery_queue;
    v_delivery bridge.delivery_log;
begin
    select q.* into v_queued
    from bridge.delivery_queue q
    join bridge.webhooks w on w.id = q.webhook_id
    where q.webhook_id = p_webhook_id
      and q.next_attempt_at <= now() and (q.leased_until is null or q.leased_until <= now())
    -- As claim does.
    order by case when w.ordered then q.id end, q.is_redelivery, q.next_attempt_at, q.id
    limit 1
    for update of q skip locked;
    if not found then
        return;
    end if;
    v_delivery.id := v_queued.id;
    v_delivery.webhook_id := v_queued.webhook_id;
    v_delivery.event_id := v_queued.event_id;
    v_delivery.event_recorded_at := v_queued.event_recorded_at;
    v_delivery.event_type := v_queued.event_type;
    v_delivery.status := 'failed';
    v_delivery.captured_at := v_queued.captured_at;
    v_delivery.committed_at := v_queued.committed_at;
    v_delivery.created_at := v_queued.created_at;
    v_delivery.finished_at := now();
    v_delivery.attempt_number := v_queued.attempt_number;
    v_delivery.error_message := 'cannot claim the delivery: ' || p_reason;
    perform bridge.log_apart(v_delivery, p_reason);
    delivery_id := v_queued.id;
    event_id := v_queued.event_id;
    attempt_number := v_queued.attempt_number;
end
$$;
comment on function bridge.give_up_next(bigint, text) is
    'Gives up the due delivery of a webhook that a claim takes first, because no claim can take it. Returns its id, its event and its number of attempts; nulls if none is due.';

-- --- deferred deliveries that the queue rejects

create function bridge.queue_deliveries(p_event bridge.deferred_events, p_webhook_ids bigint[]) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count bigint;
begin
    if cardinality(p_webhook_ids) = 0 then
        return 0;
    end if;
    begin
        insert into bridge.delivery_queue
            (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at)
        select id, p_event.event_id, p_event.event_recorded_at, p_event.event_type, p_event.captured_at,
               p_event.committed_at
        from unnest(p_webhook_ids) with ordinality as webhook(id, place)
        order by place;
        get diagnostics v_count = row_count;
        return v_count;
    exception when others then
        if not bridge.is_of_values(sqlstate) then
            raise;
        end if;
        if cardinality(p_webhook_ids) = 1 then
            insert into bridge.dead_letters
                (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at, reason)
            values (p_webhook_ids[1], p_event.event_id, p_event.event_recorded_at, p_event.event_type,
                    p_event.captured_at, p_event.committed_at, bridge.utf8_text(left(sqlerrm, 2000)));
            return 0;
        end if;
    end;
    v_count := cardinality(p_webhook_ids) / 2;
    return bridge.queue_deliveries(p_event, p_webhook_ids[:v_count])
        + bridge.queue_deliveries(p_event, p_webhook_ids[v_count + 1:]);
end
$$;
comment on function bridge.queue_deliveries(bridge.deferred_events, bigint[]) is
    'Queues an event for webhooks and returns how many deliveries it created. Those that the queue rejects become dead letters.';

create or replace function bridge.queue_deferred(
    p_deliveries integer, p_milliseconds integer, out deliveries bigint, out is_empty boolean
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_until        timestamptz := clock_timestamp() + make_interval(secs => p_milliseconds / 1000.0);
    v_event        bridge.deferred_events;
    -- The webhooks of the last event; most events have the same ones as the event before.
    v_event_type   text;
    v_from_id      bigint;
    v_unfiltered   bigint[];
    v_filtered     bigint[];
    v_filters      jsonpath[];
    v_payload      jsonb;
    v_webhook      record;
    v_passing      bigint[];
    -- Where to continue in this event; null: it is done.
    v_continue_id  bigint;
    v_done_id      bigint;
begin
    is_empty := false;
    begin
        -- Events go in order, so whoever has the first one works alone.
        perform from bridge.deferred_events order by event_id limit 1 for update nowait;
    exception when lock_not_available then
        return;
    end;
    deliveries := 0;
    for v_event in select * from bridge.deferred_events order by event_id loop
        exit when deliveries >= p_deliveries or v_done_id is not null and clock_timestamp() >= v_until;
        if (v_event.event_type, v_event.from_webhook_id) is distinct from (v_event_type, v_from_id) then
            v_event_type := v_event.event_type;
            v_from_id := v_event.from_webhook_id;
            select coalesce(array_agg(w.id) filter (where w.filter is null), '{}'),
                   array_agg(w.id order by w.id) filter (where w.filter is not null),
                   array_agg(w.filter order by w.id) filter (where w.filter is not null)
            into v_unfiltered, v_filtered, v_filters
            from unnest(bridge.patterns_matching(v_event_type)) as pattern
            join bridge.webhooks w on w.event_type = pattern
            where w.is_active and w.id >= v_from_id;
        end if;
        v_passing := v_unfiltered;
        v_continue_id := null;
        if v_filtered is not null then
            -- Read a large payload from its TOAST table once, not once for each filter.
            select e.payload #> '{}' into v_payload
            from bridge.events e
            where e.id = v_event.event_id and e.recorded_at = v_event.event_recorded_at;
            for v_webhook in select w.id, w.filter from unnest(v_filtered, v_filters) as w(id, filter) loop
                if bridge.passes(v_webhook.filter, v_payload) then
                    v_passing := v_passing || v_webhook.id;
                end if;
                if clock_timestamp() >= v_until then
                    v_continue_id := v_webhook.id + 1;
                    exit;
                end if;
            end loop;
        end if;
        select coalesce(array_agg(id order by id), '{}') into v_passing
        from unnest(v_passing) as id
        where id < v_continue_id or v_continue_id is null;
        if p_deliveries > 1 then
            insert into bridge.delivery_queue
                (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at)
            select id, v_event.event_id, v_event.event_recorded_at, v_event_type, v_event.captured_at,
                   v_event.committed_at
            from unnest(v_passing) with ordinality as webhook(id, place)
            order by place;
            deliveries := deliveries + cardinality(v_passing);
        else
            deliveries := deliveries + bridge.queue_deliveries(v_event, v_passing);
        end if;
        if v_continue_id is not null then
            update bridge.deferred_events set from_webhook_id = v_continue_id where event_id = v_event.event_id;
            exit;
        end if;
        v_done_id := v_event.event_id;
    end loop;
    delete from bridge.deferred_events where event_id <= v_done_id;
    is_empty := not exists (select from bridge.deferred_events);
end
$$;
comment on function bridge.queue_deferred(integer, integer) is
    'Creates deferred deliveries, in the order of events and webhooks: about so many, and for about so many milliseconds, but always some. If asked for one, it sets aside what the queue rejects. deliveries: null if another session is at work. is_empty: none are left.';

revoke execute on function bridge.log_apart(bridge.delivery_log, text) from public;
revoke execute on function bridge.settle_apart(
    bigint, uuid, integer, timestamptz, timestamptz, text, double precision, integer, text, text, text, text) from public;
revoke execute on function bridge.give_up_next(bigint, text) from public;
revoke execute on function bridge.queue_deliveries(bridge.deferred_events, bigint[]) from public;

-- --- functions for operators

create function bridge.retry_dead_letter(p_dead_letter_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_letter bridge.dead_letters;
begin
    delete from bridge.dead_letters where id = p_dead_letter_id returning * into v_letter;
    if not found then
        raise 'there is no dead letter %', p_dead_letter_id using errcode = 'no_data_found';
    end if;
    if v_letter.webhook_id is not null
        and not exists (select from bridge.webhooks where id = v_letter.webhook_id) then
        raise 'the webhook of dead letter % is deleted', p_dead_letter_id
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    begin
        if v_letter.webhook_id is null then
            insert into bridge.outbox (event_type, payload, captured_at)
            values (v_letter.event_type, v_letter.payload, v_letter.captured_at);
        else
            insert into bridge.delivery_queue
                (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at)
            values (v_letter.webhook_id, v_letter.event_id, v_letter.event_recorded_at,
                    v_letter.event_type, v_letter.captured_at, v_letter.committed_at);
        end if;
    exception when others then
        if not bridge.is_of_values(sqlstate) then
            raise;
        end if;
        raise 'dead letter % cannot be retried: %', p_dead_letter_id, bridge.utf8_text(left(sqlerrm, 2000))
            using errcode = 'object_not_in_prerequisite_state';
    end;
    perform bridge.audit('dead_letter.retried', p_dead_letter_id, bridge.utf8_text(left(v_letter.event_type, 255)),
        jsonb_build_object('webhook_id', v_letter.webhook_id, 'reason', v_letter.reason));
    perform case when v_letter.webhook_id is null then bridge.ring() else bridge.wake_couriers() end;
end
$$;
comment on function bridge.retry_dead_letter(bigint) is
    'Puts an event back into the outbox, with its original type and time, or a delivery into the queue. If it fails again, it becomes a new dead letter.';

create function bridge.drop_dead_letter(p_dead_letter_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_letter bridge.dead_letters;
begin
    delete from bridge.dead_letters where id = p_dead_letter_id returning * into v_letter;
    if not found then
        raise 'there is no dead letter %', p_dead_letter_id using errcode = 'no_data_found';
    end if;
    perform bridge.audit('dead_letter.dropped', p_dead_letter_id, bridge.utf8_text(left(v_letter.event_type, 255)),
        jsonb_build_object('webhook_id', v_letter.webhook_id, 'reason', v_letter.reason));
end
$$;
comment on function bridge.drop_dead_letter(bigint) is 'Deletes a dead letter.';

create function bridge.dead_letters_page(
    p_dead_letter_id bigint, p_before_id bigint, p_limit bigint, p_bytes bigint
) returns table (
    id              bigint,
    event_type      text,
    webhook_id      bigint,
    event_id        bigint,
    captured_at     timestamptz,
    recorded_at     timestamptz,
    reason          text,
    payload         text,
    payload_omitted boolean
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_letter bridge.dead_letters;
    v_bytes  bigint := 0;
begin
    for v_letter in
        select *
        from bridge.dead_letters
        where (p_dead_letter_id is null or id = p_dead_letter_id)
          and (p_before_id is null or id < p_before_id)
        order by id desc
        limit p_limit
    loop
        id := v_letter.id;
        event_type := bridge.utf8_text(left(v_letter.event_type, 255));
        webhook_id := v_letter.webhook_id;
        event_id := v_letter.event_id;
        captured_at := least(greatest(v_letter.captured_at, '0001-01-02 UTC'), '9999-12-30 UTC');
        recorded_at := v_letter.recorded_at;
        reason := left(v_letter.reason, 2000);
        payload := null;
        -- A gigabyte of text may be stored in 8 kB, but only if it is compressed.
        if v_bytes < p_bytes and pg_column_size(v_letter.payload) <= 8192
            and pg_column_compression(v_letter.payload) is null then
            begin
                payload := v_letter.payload::text;
                v_bytes := v_bytes + octet_length(payload);
                payload := case when v_bytes <= p_bytes then bridge.utf8_text(payload) end;
            exception when others then
                payload := null; -- It may be what made the drain fail.
            end;
        end if;
        payload_omitted := v_letter.payload is not null and payload is null;
        return next;
    end loop;
end
$$;
comment on function bridge.dead_letters_page(bigint, bigint, bigint, bigint) is
    'Returns dead letters below an id, newest first, or one by its id. Payloads that are large, that do not fit into a number of bytes together, or that cannot be read are null.';

revoke execute on function bridge.retry_dead_letter(bigint) from public;
revoke execute on function bridge.drop_dead_letter(bigint) from public;
revoke execute on function bridge.dead_letters_page(bigint, bigint, bigint, bigint) from public;
