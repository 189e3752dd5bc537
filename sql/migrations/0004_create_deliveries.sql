-- Deliveries: a queue of those that are pending, a log of those that are finished, every attempt, and
-- the views over them.

-- --- tables

create table bridge.delivery_queue (
    id                bigint      generated always as identity,
    webhook_id        bigint      not null,
    event_id          bigint      not null,
    event_recorded_at timestamptz not null,
    event_type        text        not null,
    captured_at       timestamptz,
    committed_at      timestamptz,
    created_at        timestamptz not null default now(),
    is_redelivery     boolean     not null default false,
    next_attempt_at   timestamptz not null default now(),
    claimed_at        timestamptz,
    leased_until      timestamptz,
    lease_token       uuid,
    attempt_number    integer     not null default 0,
    attempts_before   integer     not null default 0,
    response_status   integer,
    response_body     text,
    error_message     text,
    constraint delivery_queue_pkey primary key (id),
    constraint delivery_queue_webhook_fkey foreign key (webhook_id) references bridge.webhooks (id) on delete cascade,
    constraint delivery_queue_lease_whole check ((leased_until is null) = (lease_token is null))
) with (
    -- A lease updates no indexed column: leave room to update the row on its page.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000
);
comment on table bridge.delivery_queue is
    'Pending deliveries, one row each: the drain inserts, a courier leases, settle deletes.';
comment on column bridge.delivery_queue.event_recorded_at is
    'events.recorded_at. With event_id it finds the event in one partition.';
comment on column bridge.delivery_queue.captured_at is 'events.occurred_at.';
comment on column bridge.delivery_queue.committed_at is
    'events.committed_at or, if that is unknown, captured_at, which is slightly earlier.';
comment on column bridge.delivery_queue.is_redelivery is
    'Requeued by redeliver or redeliver_failed. New deliveries go first.';
comment on column bridge.delivery_queue.next_attempt_at is 'Do not send before this time.';
comment on column bridge.delivery_queue.claimed_at is 'When a courier claimed it for its last attempt.';
comment on column bridge.delivery_queue.leased_until is
    'A courier works on it until this time at most. After that, any courier may claim it. Null: free.';
comment on column bridge.delivery_queue.lease_token is
    'Identifies the lease. A result is accepted only with the current token.';
comment on column bridge.delivery_queue.attempt_number is 'Attempts so far.';
comment on column bridge.delivery_queue.attempts_before is
    'Attempts before it was redelivered. The retry schedule starts over after them.';
comment on column bridge.delivery_queue.response_status is 'HTTP status of the last attempt.';

create index delivery_queue_due on bridge.delivery_queue (webhook_id, is_redelivery, next_attempt_at, id);
comment on index bridge.delivery_queue_due is
    'claim: a webhook''s due deliveries, oldest first, new ones before redeliveries.';
create index delivery_queue_order on bridge.delivery_queue (webhook_id, id);
comment on index bridge.delivery_queue_order is
    'claim: the first delivery of an ordered webhook. list_deliveries: a webhook''s deliveries, newest first.';

create table bridge.delivery_log (
    id                bigint      not null,
    webhook_id        bigint      not null,
    event_id          bigint      not null,
    event_recorded_at timestamptz not null,
    event_type        text        not null,
    status            text        not null,
    captured_at       timestamptz,
    committed_at      timestamptz,
    created_at        timestamptz not null,
    claimed_at        timestamptz,
    sent_at           timestamptz,
    acknowledged_at   timestamptz,
    finished_at       timestamptz not null default now(),
    attempt_number    integer     not null,
    response_status   integer,
    response_body     text,
    error_message     text,
    constraint delivery_log_pkey primary key (id, status, finished_at),
    constraint delivery_log_status_known check (status in ('success', 'failed'))
) partition by list (status);
comment on table bridge.delivery_log is
    'Finished deliveries, one row each. Partitioned by outcome and then by day, so that successes and failures can be kept for different times.';
comment on column bridge.delivery_log.id is 'delivery_queue.id.';
comment on column bridge.delivery_log.status is 'success: answered with 2xx. failed: given up.';
comment on column bridge.delivery_log.captured_at is 'events.occurred_at.';
comment on column bridge.delivery_log.committed_at is
    'events.committed_at or, if that is unknown, captured_at, which is slightly earlier.';
comment on column bridge.delivery_log.claimed_at is 'When a courier claimed it for its last attempt.';
comment on column bridge.delivery_log.sent_at is 'When the last attempt began, by the database''s clock.';
comment on column bridge.delivery_log.acknowledged_at is
    'When the receiver''s 2xx arrived, by the database''s clock; null if it failed.';
comment on column bridge.delivery_log.attempt_number is 'Total number of attempts.';
comment on column bridge.delivery_log.response_body is 'First 16 KiB of the last response.';
comment on index bridge.delivery_log_pkey is 'webhook_deliveries: one delivery by id.';

create index delivery_log_webhook on bridge.delivery_log (webhook_id, id);
comment on index bridge.delivery_log_webhook is 'list_deliveries: a webhook''s deliveries, newest first.';
-- Rows arrive in time order: a few index pages lead to the last hour.
create index delivery_log_time on bridge.delivery_log using brin (finished_at) with (pages_per_range = 32);
comment on index bridge.delivery_log_time is 'webhook_health: deliveries finished in the last hour.';

create table bridge.delivery_log_success partition of bridge.delivery_log
    for values in ('success') partition by range (finished_at);
comment on table bridge.delivery_log_success is 'Successful deliveries, by day.';
create table bridge.delivery_log_failed partition of bridge.delivery_log
    for values in ('failed') partition by range (finished_at);
comment on table bridge.delivery_log_failed is 'Deliveries that were given up, by day.';

create table bridge.delivery_attempts (
    delivery_id     bigint      not null,
    webhook_id      bigint      not null,
    attempt_number  integer     not null,
    started_at      timestamptz not null,
    finished_at     timestamptz not null,
    response_status integer,
    response_body   text,
    failure         text,
    error_message   text
) partition by range (finished_at);
comment on table bridge.delivery_attempts is 'Every HTTP attempt, one row each.';
comment on column bridge.delivery_attempts.started_at is
    'When it began to connect or to send, by the database''s clock.';
comment on column bridge.delivery_attempts.finished_at is 'When the response was complete or the attempt failed.';
comment on column bridge.delivery_attempts.response_body is 'First 16 KiB of the response.';
comment on column bridge.delivery_attempts.failure is
    'Kind of failure: http_4xx, http_5xx, timeout_connect, dns, … (listed in bridge/delivery/retry.py); null on success.';
comment on column bridge.delivery_attempts.error_message is 'Why the attempt failed; null on success.';

create index delivery_attempts_delivery on bridge.delivery_attempts (delivery_id, attempt_number);
comment on index bridge.delivery_attempts_delivery is 'list_attempts: the attempts of one delivery, in order.';
create index delivery_attempts_time on bridge.delivery_attempts using brin (finished_at) with (pages_per_range = 32);
comment on index bridge.delivery_attempts_time is 'webhook_health: attempts of the last hour.';

-- --- views

create view bridge.webhook_deliveries as
    select q.id,
           q.webhook_id,
           q.event_type,
           e.payload,
           q.response_status,
           q.response_body,
           'pending'::text as status,
           q.error_message,
           q.attempt_number,
           q.created_at,
           null::timestamptz as delivered_at,
           case when q.attempt_number > 0 then q.next_attempt_at end as next_retry_at,
           q.event_id,
           q.committed_at,
           q.captured_at,
           q.claimed_at,
           null::timestamptz as sent_at,
           null::timestamptz as acknowledged_at,
           null::timestamptz as finished_at
    from bridge.delivery_queue q
    left join bridge.events e on e.id = q.event_id and e.recorded_at = q.event_recorded_at
    union all
    select l.id,
           l.webhook_id,
           l.event_type,
           e.payload,
           l.response_status,
           l.response_body,
           l.status,
           l.error_message,
           l.attempt_number,
           l.created_at,
           case when l.status = 'success' then l.finished_at end,
           null,
           l.event_id,
           l.committed_at,
           l.captured_at,
           l.claimed_at,
           l.sent_at,
           l.acknowledged_at,
           l.finished_at
    from bridge.delivery_log l
    left join bridge.events e on e.id = l.event_id and e.recorded_at = l.event_recorded_at;
comment on view bridge.webhook_deliveries is
    'Every delivery, pending or finished. status: pending (queued, in flight or waiting for a retry), success, failed.';
comment on column bridge.webhook_deliveries.committed_at is
    'When the event was committed, or captured if the server does not track commit timestamps.';
comment on column bridge.webhook_deliveries.captured_at is 'When the trigger fired.';
comment on column bridge.webhook_deliveries.claimed_at is 'When a courier claimed it for its last attempt.';
comment on column bridge.webhook_deliveries.sent_at is 'When the last attempt began; null while pending.';
comment on column bridge.webhook_deliveries.acknowledged_at is 'When the receiver''s 2xx arrived.';
comment on column bridge.webhook_deliveries.finished_at is
    'When it succeeded or was given up; null while pending. Retention and redeliver_failed go by this time.';

create view bridge.backlog as
    select w.id as webhook_id,
           w.name,
           count(q.id) as pending,
           count(q.id) filter (where q.leased_until > now()) as in_flight,
           count(q.id) filter (where q.next_attempt_at <= now() and (q.leased_until is null or q.leased_until <= now())) as due,
           count(q.id) filter (where q.next_attempt_at > now() and q.attempt_number > 0) as waiting_for_retry,
           count(q.id) filter (where q.is_redelivery) as redeliveries,
           min(q.created_at) filter (where not q.is_redelivery) as oldest_created_at,
           extract(epoch from now() - min(q.created_at) filter (where not q.is_redelivery))::double precision
               as oldest_seconds,
           min(q.next_attempt_at) as next_attempt_at
    from bridge.webhooks w
    left join bridge.delivery_queue q on q.webhook_id = w.id
    group by w.id;
comment on view bridge.backlog is 'Pending deliveries of each webhook.';
comment on column bridge.backlog.pending is 'Unfinished deliveries: in flight, due, waiting for a retry or for their turn.';
comment on column bridge.backlog.due is
    'Deliveries that could be sent now, if the webhook''s limits, pause and breaker allow it.';
comment on column bridge.backlog.oldest_created_at is
    'When the oldest of them was created. Redeliveries do not count, because they keep their original time.';
comment on column bridge.backlog.oldest_seconds is 'Seconds since oldest_created_at.';

create view bridge.webhook_health as
    select w.id as webhook_id,
           w.name,
           w.state,
           w.disabled_reason,
           w.failing_since,
           w.probe_at,
           w.failure_share,
           b.pending,
           b.due,
           b.oldest_created_at as oldest_pending_at,
           b.oldest_seconds as oldest_pending_seconds,
           coalesce(a.attempts_hour, 0) as attempts_hour,
           coalesce(a.attempts_day, 0) as attempts_day,
           a.success_rate_hour,
           a.success_rate_day,
           d.commit_to_acknowledged_p50_hour,
           d.commit_to_acknowledged_p95_hour,
           d.commit_to_acknowledged_p50_day,
           d.commit_to_acknowledged_p95_day,
           a.answer_p50_hour,
           a.answer_p95_hour,
           a.answer_p50_day,
           a.answer_p95_day
    from bridge.webhooks w
    join bridge.backlog b on b.webhook_id = w.id
    left join (
        select webhook_id,
               count(*) filter (where is_recent) as attempts_hour,
               count(*) as attempts_day,
               round(100.0 * count(*) filter (where is_recent and succeeded)
                     / nullif(count(*) filter (where is_recent), 0), 2) as success_rate_hour,
               round(100.0 * count(*) filter (where succeeded) / count(*), 2) as success_rate_day,
               percentile_cont(0.5) within group (order by seconds) filter (where is_recent) as answer_p50_hour,
               percentile_cont(0.95) within group (order by seconds) filter (where is_recent) as answer_p95_hour,
               percentile_cont(0.5) within group (order by seconds) as answer_p50_day,
               percentile_cont(0.95) within group (order by seconds) as answer_p95_day
        from (
            select webhook_id,
                   finished_at > now() - interval '1 hour' as is_recent,
                   error_message is null as succeeded,
                   extract(epoch from finished_at - started_at)::double precision as seconds
            from bridge.delivery_attempts
            where finished_at > now() - interval '1 day'
        ) as attempt
        group by webhook_id
    ) as a on a.webhook_id = w.id
    left join (
        select webhook_id,
               percentile_cont(0.5) within group (order by seconds) filter (where is_recent) as commit_to_acknowledged_p50_hour,
               percentile_cont(0.95) within group (order by seconds) filter (where is_recent) as commit_to_acknowledged_p95_hour,
               percentile_cont(0.5) within group (order by seconds) as commit_to_acknowledged_p50_day,
               percentile_cont(0.95) within group (order by seconds) as commit_to_acknowledged_p95_day
        from (
            select webhook_id,
                   finished_at > now() - interval '1 hour' as is_recent,
                   extract(epoch from acknowledged_at - committed_at)::double precision as seconds
            from bridge.delivery_log
            where status = 'success' and finished_at > now() - interval '1 day'
        ) as delivery
        group by webhook_id
    ) as d on d.webhook_id = w.id;
comment on view bridge.webhook_health is
    'How each webhook is doing: its state, its backlog, and its last hour and day. Rates are percentages of attempts; durations are seconds.';
comment on column bridge.webhook_health.state is 'webhooks.state.';
comment on column bridge.webhook_health.commit_to_acknowledged_p95_hour is
    'Seconds from the application''s commit to the receiver''s 2xx, including retries and waiting.';
comment on column bridge.webhook_health.answer_p95_hour is
    'Seconds per attempt, including failed ones: the latency of the receiver and of the network to it.';

-- --- functions

create function bridge.newest_deliveries(
    p_webhook_id bigint, p_status text, p_from_id bigint, p_before_id bigint, p_limit bigint
) returns table (
    id              bigint,
    webhook_id      bigint,
    event_id        bigint,
    event_type      text,
    status          text,
    attempt_number  integer,
    response_status integer,
    error_message   text,
    created_at      timestamptz,
    next_attempt_at timestamptz
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    -- Each table has an index that returns ids in order, for one webhook and for all of them; the view
    -- has none. Two statements, so that each has a plan that uses its index.
    if p_webhook_id is null then
        return query
        select *
        from ((select id, webhook_id, event_id, event_type, 'pending', attempt_number, response_status,
                      error_message, created_at, next_attempt_at
               from bridge.delivery_queue
               where coalesce(p_status, 'pending') = 'pending' and id >= p_from_id and id < p_before_id
               order by id desc limit p_limit)
              union all
              (select id, webhook_id, event_id, event_type, status, attempt_number, response_status,
                      error_message, created_at, null
               from bridge.delivery_log
               where status in (coalesce(p_status, 'success'), coalesce(p_status, 'failed'))
                 and id >= p_from_id and id < p_before_id
               order by id desc limit p_limit)) as newest
        order by id desc
        limit p_limit;
    else
        return query
        select *
        from ((select id, webhook_id, event_id, event_type, 'pending', attempt_number, response_status,
                      error_message, created_at, next_attempt_at
               from bridge.delivery_queue
               where webhook_id = p_webhook_id
                 and coalesce(p_status, 'pending') = 'pending' and id >= p_from_id and id < p_before_id
               order by id desc limit p_limit)
              union all
              (select id, webhook_id, event_id, event_type, status, attempt_number, response_status,
                      error_message, created_at, null
               from bridge.delivery_log
               where webhook_id = p_webhook_id
                 and status in (coalesce(p_status, 'success'), coalesce(p_status, 'failed'))
                 and id >= p_from_id and id < p_before_id
               order by id desc limit p_limit)) as newest
        order by id desc
        limit p_limit;
    end if;
end
$$;
comment on function bridge.newest_deliveries(bigint, text, bigint, bigint, bigint) is
    'Returns deliveries in an id range, newest first, optionally of one webhook or with one status. The range excludes its upper end.';
