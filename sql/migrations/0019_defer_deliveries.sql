-- Deferred deliveries: the drain publishes every event at once, but creates only so many deliveries.
-- The others are created afterwards, in batches of their own.

create table bridge.deferred_events (
    event_id          bigint      not null,
    event_recorded_at timestamptz not null,
    event_type        text        not null,
    captured_at       timestamptz not null,
    committed_at      timestamptz not null,
    from_webhook_id   bigint      not null,
    constraint deferred_events_pkey primary key (event_id)
);
comment on table bridge.deferred_events is
    'Published events that are not queued for all of their webhooks yet. The drain inserts, queue_deferred deletes.';
comment on column bridge.deferred_events.event_recorded_at is 'events.recorded_at.';
comment on column bridge.deferred_events.committed_at is 'delivery_queue.committed_at.';
comment on column bridge.deferred_events.from_webhook_id is
    'Deliveries to webhooks with this id or a higher one are still to be created.';

create function bridge.queue_deferred(
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
    v_count        bigint;
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
        insert into bridge.delivery_queue
            (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at)
        select id, v_event.event_id, v_event.event_recorded_at, v_event_type, v_event.captured_at,
               v_event.committed_at
        from unnest(v_passing) as id
        where id < v_continue_id or v_continue_id is null
        order by id;
        get diagnostics v_count = row_count;
        deliveries := deliveries + v_count;
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
    'Creates deferred deliveries, in the order of events and webhooks: about so many, and for about so many milliseconds, but always some. deliveries: null if another session is at work. is_empty: none are left.';

-- Slow filters run in queue_deferred, in as many calls as they need.
drop function bridge.filter_milliseconds(jsonpath, jsonb);
revoke execute on function bridge.queue_deferred(integer, integer) from public;
