-- Redelivery of a range in batches: the first at once, the others by running bridges. Each batch is one short
-- transaction, so that a million deliveries take no more memory and no longer locks than a thousand.

-- --- table

create table bridge.redeliveries (
    webhook_id     bigint           not null,
    finished_since timestamptz      not null,
    finished_until timestamptz      not null,
    status         text,
    per_second     double precision not null,
    matched        bigint           not null default 0,
    requeued       bigint           not null default 0,
    last_id        bigint           not null default 0,
    batch_id       bigint,
    next_due_at    timestamptz      not null default clock_timestamp(),
    created_at     timestamptz      not null default clock_timestamp(),
    finished_at    timestamptz,
    cancelled_at   timestamptz,
    state          text             not null generated always as (
        case
            when cancelled_at is not null then 'cancelled'
            when finished_at is not null then 'finished'
            else 'running'
        end) stored,
    constraint redeliveries_pkey primary key (webhook_id),
    constraint redeliveries_status_known check (status in ('success', 'failed')),
    constraint redeliveries_webhook_fkey foreign key (webhook_id) references bridge.webhooks (id) on delete cascade
);
comment on table bridge.redeliveries is
    'The last redelivery of a range for each webhook, and its progress. The next one replaces it.';
comment on column bridge.redeliveries.finished_since is 'The range: deliveries that finished at this time or later …';
comment on column bridge.redeliveries.finished_until is
    '… and before this one. Never after created_at, so that what fails again is not redelivered twice.';
comment on column bridge.redeliveries.status is 'success or failed: only these; null: both.';
comment on column bridge.redeliveries.matched is 'Deliveries to send again, counted at the start.';
comment on column bridge.redeliveries.requeued is
    'Deliveries moved back to the queue so far. In the end fewer than matched if some have expired meanwhile.';
comment on column bridge.redeliveries.last_id is 'Deliveries up to this id have been dealt with.';
comment on column bridge.redeliveries.batch_id is
    'First delivery of the last batch. The next batch follows once it has been tried.';
comment on column bridge.redeliveries.next_due_at is 'When the next delivery is due.';

-- --- functions

drop function bridge.requeue(bigint, bigint[], double precision);
create function bridge.requeue(
    p_webhook_id   bigint,
    p_delivery_ids bigint[],
    p_per_second   double precision,
    p_due_at       timestamptz default null,
    p_since        timestamptz default '-infinity',
    p_until        timestamptz default 'infinity'
) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_requeued bigint;
begin
    if cardinality(p_delivery_ids) > 10000 then
        raise 'cannot requeue % deliveries at once: at most 10000', cardinality(p_delivery_ids)
            using errcode = 'invalid_parameter_value',
                  hint = 'Use bridge.redeliver_finished.';
    end if;
    -- Keep drop_expired_partition out.
    lock table bridge.redelivery_lock in row exclusive mode;
    -- One session at a time per webhook. The lock also keeps the webhook while its deliveries move.
    perform from bridge.webhooks where id = p_webhook_id for no key update;
    if not found then
        return 0;
    end if;
    with chosen as (
        delete from bridge.delivery_log l
        where l.id = any (p_delivery_ids)
          -- The ids of a batch lie close together: the index on (webhook_id, id) leads to few others.
          and (l.webhook_id, l.id) >= (p_webhook_id, (select min(id) from unnest(p_delivery_ids) as id))
          and (l.webhook_id, l.id) <= (p_webhook_id, (select max(id) from unnest(p_delivery_ids) as id))
          and l.finished_at between p_since and p_until
          -- Looked up for each delivery: a join might read all events.
          and (select true from bridge.events e where e.id = l.event_id and e.recorded_at = l.event_recorded_at)
        returning l.*
    ), queued as (
        insert into bridge.delivery_queue
            (id, webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at, created_at,
             is_redelivery, next_attempt_at, attempt_number, attempts_before,
             response_status, response_body, error_message)
        overriding system value
        select id, webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at, created_at,
               true,
               coalesce(p_due_at, clock_timestamp())
                   + make_interval(secs => (row_number() over (order by id) - 1) / p_per_second),
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
comment on function bridge.requeue(bigint, bigint[], double precision, timestamptz, timestamptz, timestamptz) is
    'Internal, for redeliver and requeue_batch: moves at most 10000 finished deliveries of a webhook from the log back to the queue, spaced out at a rate from p_due_at on, and returns how many. The range of finished_at only tells in which days to look.';

create function bridge.requeue_batch(p_webhook_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
-- Indexes return what a batch needs, in order. Other plans may read the whole log for it.
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
    c_batch     constant integer := 1000;
    -- Of the first and the last day, deliveries out of the range are read as well.
    c_looked_at constant integer := 10000;
    v_job       bridge.redeliveries;
    v_first_day timestamptz;
    v_end_day   timestamptz;
    v_ids       bigint[];
    v_since     timestamptz;
    v_until     timestamptz;
    v_last_id   bigint;
    v_is_last   boolean;
    v_due_at    timestamptz;
    v_requeued  bigint;
begin
    select * into strict v_job from bridge.redeliveries where webhook_id = p_webhook_id for update;
    v_first_day := date_trunc('day', v_job.finished_since, 'UTC');
    v_end_day := date_trunc('day', v_job.finished_until, 'UTC') + interval '24 hours';
    with looked_at as materialized (
        select l.id, l.finished_at
        from bridge.delivery_log l
        -- Pairs, because only the index on (webhook_id, id) finds them: the primary key would lead
        -- through the deliveries of every webhook.
        where (l.webhook_id, l.id) > (p_webhook_id, v_job.last_id)
          and (l.webhook_id, l.id) < (p_webhook_id + 1, 0)
          and l.status in (coalesce(v_job.status, 'success'), coalesce(v_job.status, 'failed'))
          -- Whole days choose partitions, but exclude none of their rows: the limit bounds what is read.
          and l.finished_at >= v_first_day
          and l.finished_at < v_end_day
        order by l.webhook_id, l.id
        limit c_looked_at
    ), batch as materialized (
        select id, finished_at
        from looked_at
        where finished_at >= v_job.finished_since and finished_at < v_job.finished_until
        -- In the order of looked_at, of which no more is read than the batch takes.
        limit c_batch
    )
    select array_agg(id order by id), min(finished_at), max(finished_at),
           case when count(*) = c_batch then max(id) else (select max(id) from looked_at) end,
           count(*) < c_batch and (select count(*) from looked_at) < c_looked_at
    into v_ids, v_since, v_until, v_last_id, v_is_last
    from batch;
    v_due_at := greatest(v_job.next_due_at, clock_timestamp());
    v_requeued := case when v_ids is null then 0 else
        bridge.requeue(p_webhook_id, v_ids, v_job.per_second, v_due_at, v_since, v_until) end;
    -- In the same transaction as the deliveries, so that a crash neither skips nor repeats any.
    update bridge.redeliveries
    set requeued = requeued + v_requeued,
        last_id = coalesce(v_last_id, last_id),
        batch_id = coalesce(v_ids[1], batch_id),
        next_due_at = v_due_at + make_interval(secs => v_requeued / per_second),
        finished_at = case when v_is_last then clock_timestamp() end
    where webhook_id = p_webhook_id;
end
$$;
comment on function bridge.requeue_batch(bigint) is
    'Internal, for redeliver_finished and continue_redelivery: moves the next batch of a webhook''s redelivery to the queue and notes its progress.';

create function bridge.continue_redelivery() returns setof bridge.redeliveries
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_webhook_id bigint;
begin
    if not exists (select from bridge.redeliveries where state = 'running') then
        return;
    end if;
    -- As drop_expired_partition does, before any webhook.
    lock table bridge.redelivery_lock in row exclusive mode;
    select r.webhook_id into v_webhook_id
    from bridge.redeliveries r
    join bridge.webhooks w on w.id = r.webhook_id
    where r.state = 'running'
      and r.next_due_at <= now() + interval '10 seconds'
      -- The queue never has more than two batches that wait for their first attempt, however slow
      -- the receiver is and whatever holds the webhook back.
      and not exists (
          select from bridge.delivery_queue q
          where q.id = r.batch_id and q.leased_until is null and q.attempt_number = q.attempts_before)
    order by r.next_due_at
    limit 1
    -- Another bridge may be at it, and a webhook that is being settled or deleted can wait.
    for no key update of w skip locked
    for update of r skip locked;
    if found then
        perform bridge.requeue_batch(v_webhook_id);
        perform bridge.wake_couriers();
        return query select * from bridge.redeliveries where webhook_id = v_webhook_id;
    end if;
end
$$;
comment on function bridge.continue_redelivery() is
    'Moves the next batch of one running redelivery to the queue and returns its progress; no row if none is due. Every bridge calls it all the time.';

create function bridge.redeliver_finished(
    p_webhook_id bigint,
    p_since      timestamptz,
    p_until      timestamptz default null,
    p_dry_run    boolean default false,
    p_per_second double precision default 20,
    p_status     text default null
) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Finite, as not every driver reads infinite times.
    v_since   constant timestamptz := greatest(p_since, 'epoch');
    v_until   constant timestamptz := greatest(least(p_until, clock_timestamp()), 'epoch');
    v_matched bigint;
    v_job     bridge.redeliveries;
begin
    -- A null p_dry_run only counts, without any lock.
    if p_dry_run is distinct from false then
        perform from bridge.webhooks where id = p_webhook_id;
    else
        -- Keeps the webhook, but does not block settling.
        perform from bridge.webhooks where id = p_webhook_id for key share;
    end if;
    if not found then
        raise 'there is no webhook %', p_webhook_id using errcode = 'no_data_found';
    end if;
    if p_since is null then
        raise 'p_since must not be null' using errcode = 'invalid_parameter_value';
    end if;
    if p_per_second is null or not p_per_second between 0.001 and 100000 then
        raise 'p_per_second must be between 0.001 and 100000' using errcode = 'invalid_parameter_value';
    end if;
    if p_status not in ('success', 'failed') then
        raise 'p_status must be success, failed or null' using errcode = 'invalid_parameter_value';
    end if;
    if p_dry_run is not distinct from false then
        insert into bridge.redeliveries as r (webhook_id, finished_since, finished_until, status, per_second)
        values (p_webhook_id, v_since, v_until, p_status, p_per_second)
        on conflict (webhook_id) do update
        set finished_since = excluded.finished_since, finished_until = excluded.finished_until,
            status = excluded.status,
            per_second = excluded.per_second, matched = 0, requeued = 0, last_id = 0, batch_id = null,
            next_due_at = excluded.next_due_at, created_at = excluded.created_at,
            finished_at = null, cancelled_at = null
        where r.state <> 'running';
        if not found then
            raise 'webhook % has a running redelivery', p_webhook_id
                using errcode = 'object_not_in_prerequisite_state',
                      hint = 'Wait for it, or cancel it with bridge.cancel_redelivery.';
        end if;
    end if;
    -- Before anything moves: counting may take seconds, and locks no delivery.
    select count(*) into v_matched
    from bridge.delivery_log l
    where l.webhook_id = p_webhook_id
      and l.status in (coalesce(p_status, 'success'), coalesce(p_status, 'failed'))
      and l.finished_at >= v_since
      and l.finished_at < v_until
      and exists (select from bridge.events e where e.id = l.event_id and e.recorded_at = l.event_recorded_at);
    if p_dry_run is distinct from false then
        return v_matched;
    end if;
    perform bridge.requeue_batch(p_webhook_id);
    update bridge.redeliveries
    set matched = case state when 'finished' then requeued else v_matched end
    where webhook_id = p_webhook_id
    returning * into v_job;
    perform bridge.audit('webhook.redelivered', p_webhook_id, null,
        jsonb_build_object('since', p_since, 'until', p_until, 'per_second', p_per_second,
                           'status', p_status, 'count', v_job.matched));
    perform bridge.wake_couriers();
    return v_job.matched;
end
$$;
comment on function bridge.redeliver_finished(bigint, timestamptz, timestamptz, boolean, double precision, text) is
    'Sends the deliveries of a webhook again that finished in a time range with a status, or with either, at a rate per second and after new deliveries. With p_dry_run it only counts them. Returns how many. The first thousand are queued at once, the others batch by batch by a running bridge: see bridge.redeliveries.';

create or replace function bridge.redeliver_failed(
    p_webhook_id bigint,
    p_since      timestamptz,
    p_until      timestamptz default null,
    p_dry_run    boolean default false,
    p_per_second double precision default 20
) returns bigint
language sql
set search_path = pg_catalog, pg_temp
as $$
    select bridge.redeliver_finished(p_webhook_id, p_since, p_until, p_dry_run, p_per_second, 'failed')
$$;
comment on function bridge.redeliver_failed(bigint, timestamptz, timestamptz, boolean, double precision) is
    'redeliver_finished for failed deliveries.';

create function bridge.cancel_redelivery(p_webhook_id bigint) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job bridge.redeliveries;
begin
    update bridge.redeliveries
    set cancelled_at = clock_timestamp()
    where webhook_id = p_webhook_id and state = 'running'
    returning * into v_job;
    if found then
        perform bridge.audit('webhook.redelivery_cancelled', p_webhook_id, null,
            jsonb_build_object('requeued', v_job.requeued, 'count', v_job.matched));
        return true;
    end if;
    perform from bridge.webhooks where id = p_webhook_id;
    if not found then
        raise 'there is no webhook %', p_webhook_id using errcode = 'no_data_found';
    end if;
    return false;
end
$$;
comment on function bridge.cancel_redelivery(bigint) is
    'Ends the running redelivery of a webhook; false if none is running. Deliveries that are in the queue already, at most two thousand, are still sent.';

revoke execute on all functions in schema bridge from public;
