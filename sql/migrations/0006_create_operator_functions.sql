-- Functions for operators: pause, resume and redeliver, from SQL as from the API.

create function bridge.wake_couriers() returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    select pg_notify('bridge_deliveries', '')
$$;
comment on function bridge.wake_couriers() is
    'Makes the bridges look for due deliveries now instead of at the next poll.';

create function bridge.pause_webhook(p_webhook_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    update bridge.webhooks
    set paused_at = coalesce(paused_at, now()), updated_at = now()
    where id = p_webhook_id;
    if not found then
        raise 'there is no webhook %', p_webhook_id using errcode = 'no_data_found';
    end if;
end
$$;
comment on function bridge.pause_webhook(bigint) is
    'Pauses a webhook: its deliveries, including new ones, wait until resume_webhook. Attempts in flight finish.';

create function bridge.resume_webhook(p_webhook_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    update bridge.webhooks
    set is_active = true, disabled_reason = null, paused_at = null,
        probe_at = null, failing_since = null, failure_share = 0, updated_at = now()
    where id = p_webhook_id;
    if not found then
        raise 'there is no webhook %', p_webhook_id using errcode = 'no_data_found';
    end if;
    perform bridge.wake_couriers();
end
$$;
comment on function bridge.resume_webhook(bigint) is
    'Makes a webhook deliver again at once: ends a pause, closes the breaker, and activates it if it was off or disabled.';

create function bridge.requeue(p_webhook_id bigint, p_delivery_ids bigint[], p_per_second double precision) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_requeued bigint;
begin
    -- Keep drop_expired_partition out.
    lock table bridge.redelivery_lock in row exclusive mode;
    -- One session at a time per webhook. The lock also keeps the webhook while its deliveries move.
    perform from bridge.webhooks where id = p_webhook_id for no key update;
    if not found then
        return 0;
    end if;
    with chosen as (
        delete from bridge.delivery_log l
        where l.webhook_id = p_webhook_id
          and l.id = any (p_delivery_ids)
          and exists (select from bridge.events e where e.id = l.event_id and e.recorded_at = l.event_recorded_at)
        returning l.*
    ), queued as (
        insert into bridge.delivery_queue
            (id, webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at, created_at,
             is_redelivery, next_attempt_at, attempt_number, attempts_before,
             response_status, response_body, error_message)
        overriding system value
        select id, webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at, created_at,
               true, clock_timestamp() + make_interval(secs => (row_number() over (order by id) - 1) / p_per_second),
               attempt_number, attempt_number, response_status, response_body, error_message
        from chosen
    ), counted as (
        update bridge.webhooks w
        set delivered_count = w.delivered_count - moved.delivered,
            failed_count = w.failed_count - moved.failed
        from (select count(*) filter (where status = 'success') as delivered,
                     count(*) filter (where status = 'failed') as failed
              from chosen) as moved
        where w.id = p_webhook_id
    )
    select count(*) into v_requeued from chosen;
    return v_requeued;
end
$$;
comment on function bridge.requeue(bigint, bigint[], double precision) is
    'Internal, for redeliver and redeliver_failed: moves finished deliveries of a webhook from the log back to the queue, spaced out at a rate, and returns how many.';

create function bridge.redeliver(p_delivery_id bigint) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_queued   record;
    v_finished record;
begin
    loop
        update bridge.delivery_queue
        set next_attempt_at = least(next_attempt_at, clock_timestamp())
        where id = p_delivery_id
        returning webhook_id into v_queued;
        if found then
            perform bridge.audit('delivery.redelivered', p_delivery_id, null,
                jsonb_build_object('webhook_id', v_queued.webhook_id, 'was_pending', true));
            perform bridge.wake_couriers();
            return false;
        end if;
        select l.webhook_id,
               exists (select from bridge.webhooks w where w.id = l.webhook_id) as has_webhook,
               exists (select from bridge.events e
                       where e.id = l.event_id and e.recorded_at = l.event_recorded_at) as has_event
        into v_finished
        from bridge.delivery_log l
        where l.id = p_delivery_id;
        if not found then
            -- Another session may have requeued it between the two statements.
            continue when exists (select from bridge.delivery_queue where id = p_delivery_id);
            raise 'there is no delivery %', p_delivery_id using errcode = 'no_data_found';
        end if;
        if not v_finished.has_webhook then
            raise 'the webhook of delivery % is deleted', p_delivery_id
                using errcode = 'object_not_in_prerequisite_state';
        end if;
        if not v_finished.has_event then
            raise 'the event of delivery % is no longer in the log', p_delivery_id
                using errcode = 'object_not_in_prerequisite_state';
        end if;
        if bridge.requeue(v_finished.webhook_id, array[p_delivery_id], 1) > 0 then
            perform bridge.audit('delivery.redelivered', p_delivery_id, null,
                jsonb_build_object('webhook_id', v_finished.webhook_id, 'was_pending', false));
            perform bridge.wake_couriers();
            return true;
        end if;
        -- It has changed in the meantime: start over.
    end loop;
end
$$;
comment on function bridge.redeliver(bigint) is
    'Sends a finished delivery again, whatever its outcome, with the same webhook-id, and returns true. Its attempts keep counting; the retry schedule starts over. A pending delivery is sent at once, and the function returns false.';

create function bridge.redeliver_failed(
    p_webhook_id bigint,
    p_since      timestamptz,
    p_until      timestamptz default null,
    p_dry_run    boolean default false,
    p_per_second double precision default 20
) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_delivery_ids bigint[];
    v_requeued     bigint;
begin
    if not exists (select from bridge.webhooks where id = p_webhook_id) then
        raise 'there is no webhook %', p_webhook_id using errcode = 'no_data_found';
    end if;
    if p_since is null then
        raise 'p_since must not be null' using errcode = 'invalid_parameter_value';
    end if;
    if p_per_second is null or not p_per_second between 0.001 and 100000 then
        raise 'p_per_second must be between 0.001 and 100000' using errcode = 'invalid_parameter_value';
    end if;
    select array_agg(l.id) into v_delivery_ids
    from bridge.delivery_log_failed l
    where l.webhook_id = p_webhook_id
      and l.finished_at >= p_since
      and (p_until is null or l.finished_at < p_until)
      and exists (select from bridge.events e where e.id = l.event_id and e.recorded_at = l.event_recorded_at);
    -- A null p_dry_run only counts.
    if p_dry_run is distinct from false then
        return coalesce(cardinality(v_delivery_ids), 0);
    end if;
    v_requeued := bridge.requeue(p_webhook_id, coalesce(v_delivery_ids, '{}'), p_per_second);
    perform bridge.audit('webhook.redelivered', p_webhook_id, null,
        jsonb_build_object('since', p_since, 'until', p_until, 'per_second', p_per_second, 'count', v_requeued));
    perform bridge.wake_couriers();
    return v_requeued;
end
$$;
comment on function bridge.redeliver_failed(bigint, timestamptz, timestamptz, boolean, double precision) is
    'Sends the failed deliveries of a webhook again that finished in a time range, at a rate per second and after new deliveries. With p_dry_run it only counts them. Returns how many.';
