-- Webhooks, the queue of what is still to be delivered to them, and the log of what has been.

create table bridge.webhooks (
    id                bigint generated always as identity,
    name              text        not null,
    url               text        not null,
    event_type        text        not null,
    secret            text,
    description       text,
    is_active         boolean     not null default true,
    disabled_reason   text,
    timeout_seconds   integer     not null default 15,
    max_concurrency   integer     not null default 4,
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now(),
    last_triggered_at timestamptz,
    success_count     bigint      not null default 0,
    failure_count     bigint      not null default 0,
    constraint webhooks_pkey primary key (id),
    constraint webhooks_secret_not_empty check (secret <> ''),
    constraint webhooks_timeout_seconds_range check (timeout_seconds between 1 and 120),
    constraint webhooks_max_concurrency_range check (max_concurrency between 1 and 1000)
) with (
    -- Counters change with every batch of deliveries: leave room for updates in place.
    fillfactor = 50
);
comment on table bridge.webhooks is 'Where events go: one row is one receiver of one event type or pattern.';
comment on column bridge.webhooks.event_type is 'An exact type (ticket.created) or a pattern (ticket.*, *).';
comment on column bridge.webhooks.secret is 'Key of the signatures; without one, requests are not signed.';
comment on column bridge.webhooks.is_active is 'Only active webhooks get new deliveries; the queue of a paused one is kept.';
comment on column bridge.webhooks.disabled_reason is 'Why the bridge itself set is_active to false; null if it did not.';
comment on column bridge.webhooks.timeout_seconds is 'Deadline of one whole attempt, from connecting to the end of the answer.';
comment on column bridge.webhooks.max_concurrency is 'Most attempts that one bridge has in flight to this webhook.';
comment on column bridge.webhooks.last_triggered_at is 'When the last attempt ended.';
comment on column bridge.webhooks.success_count is 'Attempts that were answered with 2xx, ever.';
comment on column bridge.webhooks.failure_count is 'Attempts that were not, ever.';

create index webhooks_active_event_type on bridge.webhooks (event_type) where is_active;
comment on index bridge.webhooks_active_event_type is 'drain: who takes an event of this type.';

create function bridge.patterns_matching(p_event_type text) returns text[]
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select array[p_event_type]
        || array(
            select array_to_string(parts[1:length], '.') || '.*'
            from string_to_array(p_event_type, '.') as parts,
                 generate_series(cardinality(parts) - 1, 1, -1) as length)
        || array['*']
$$;
comment on function bridge.patterns_matching(text) is
    'Every webhooks.event_type that chooses this event type, the most exact first.';

create table bridge.delivery_queue (
    id                bigint generated always as identity,
    webhook_id        bigint      not null,
    event_id          bigint      not null,
    event_recorded_at timestamptz not null,
    event_type        text        not null,
    attempt_number    integer     not null default 0,
    created_at        timestamptz not null default now(),
    next_attempt_at   timestamptz not null default now(),
    leased_until      timestamptz,
    lease_token       uuid,
    response_status   integer,
    response_body     text,
    error_message     text,
    constraint delivery_queue_pkey primary key (id),
    constraint delivery_queue_webhook_fkey foreign key (webhook_id) references bridge.webhooks (id) on delete cascade,
    constraint delivery_queue_lease_whole check ((leased_until is null) = (lease_token is null))
) with (
    -- A lease updates the row in place: it touches no indexed column, and there is room on the page.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000
);
comment on table bridge.delivery_queue is
    'Deliveries that are not finished, one row each: enqueued by the drain, leased by a courier, removed when settled.';
comment on column bridge.delivery_queue.event_recorded_at is 'With event_id, the row of the event log in one partition.';
comment on column bridge.delivery_queue.attempt_number is 'Attempts made so far.';
comment on column bridge.delivery_queue.next_attempt_at is 'Not before this time.';
comment on column bridge.delivery_queue.leased_until is
    'A courier is working on it until then at the latest; past it, anyone may take it. Null: free.';
comment on column bridge.delivery_queue.lease_token is
    'Names the lease: a result is accepted only from the courier whose token is still here.';
comment on column bridge.delivery_queue.response_status is 'Of the last attempt.';

create index delivery_queue_due on bridge.delivery_queue (webhook_id, next_attempt_at, id);
comment on index bridge.delivery_queue_due is 'claim: a webhook''s deliveries that are due, oldest first.';

create table bridge.delivery_log (
    id                bigint      not null,
    webhook_id        bigint      not null,
    event_id          bigint      not null,
    event_recorded_at timestamptz not null,
    event_type        text        not null,
    status            text        not null,
    attempt_number    integer     not null,
    response_status   integer,
    response_body     text,
    error_message     text,
    created_at        timestamptz not null,
    finished_at       timestamptz not null default now(),
    constraint delivery_log_pkey primary key (id, status, finished_at),
    constraint delivery_log_status_known check (status in ('success', 'failed'))
) partition by list (status);
comment on table bridge.delivery_log is
    'Finished deliveries, one insert each. Partitioned by outcome and then by day, so that successes and failures are kept for different times.';
comment on column bridge.delivery_log.id is 'The id that the delivery had in delivery_queue.';
comment on column bridge.delivery_log.status is 'success: answered with 2xx. failed: given up.';
comment on column bridge.delivery_log.attempt_number is 'Attempts made in all.';
comment on column bridge.delivery_log.response_body is 'First 16 KiB of the last answer.';
comment on index bridge.delivery_log_pkey is 'webhook_deliveries: one delivery by id.';

create index delivery_log_webhook on bridge.delivery_log (webhook_id, id);
comment on index bridge.delivery_log_webhook is 'list_deliveries: a webhook''s deliveries, newest first.';

create table bridge.delivery_log_success partition of bridge.delivery_log
    for values in ('success') partition by range (finished_at);
create table bridge.delivery_log_failed partition of bridge.delivery_log
    for values in ('failed') partition by range (finished_at);
comment on table bridge.delivery_log_success is 'Successful deliveries, by day.';
comment on table bridge.delivery_log_failed is 'Deliveries that were given up, by day.';

create table bridge.delivery_attempts (
    delivery_id     bigint      not null,
    webhook_id      bigint      not null,
    attempt_number  integer     not null,
    started_at      timestamptz not null,
    finished_at     timestamptz not null,
    response_status integer,
    response_body   text,
    error_message   text
) partition by range (finished_at);
comment on table bridge.delivery_attempts is 'Every HTTP attempt, one row each.';
comment on column bridge.delivery_attempts.response_body is 'First 16 KiB of the answer.';
comment on column bridge.delivery_attempts.error_message is 'Why the attempt failed; null if it did not.';

create index delivery_attempts_delivery on bridge.delivery_attempts (delivery_id, attempt_number);
comment on index bridge.delivery_attempts_delivery is 'The attempts of one delivery, in order.';

insert into bridge.partitioned_logs (parent) values
    ('delivery_log_success'),
    ('delivery_log_failed'),
    ('delivery_attempts');

create function bridge.drop_expired_partition(p_parent text, p_keep_days integer) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
-- Dropping locks the log for a moment; whoever reads it for long is not waited for.
set lock_timeout = '500ms'
as $$
declare
    v_expired record;
begin
    perform pg_advisory_xact_lock(hashtext('bridge.partitions'));
    for v_expired in
        select c.relname,
               to_date(right(c.relname, 8), 'YYYYMMDD')::timestamp at time zone 'UTC' as starts_at
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent = to_regclass(format('bridge.%I', p_parent))
          and to_date(right(c.relname, 8), 'YYYYMMDD') < (now() at time zone 'UTC')::date - p_keep_days
        order by c.relname
    loop
        -- What is still to be delivered keeps its payload.
        continue when p_parent = 'events' and exists (
            select from bridge.delivery_queue q
            where q.event_recorded_at >= v_expired.starts_at
              and q.event_recorded_at < v_expired.starts_at + interval '24 hours');
        execute format('drop table bridge.%I', v_expired.relname);
        return v_expired.relname;
    end loop;
    return null;
end
$$;
comment on function bridge.drop_expired_partition(text, integer) is
    'Drops the oldest partition of a log whose whole day is older than the days to keep. Returns its name; null if there is none.';

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
           case when q.attempt_number > 0 then q.next_attempt_at end as next_retry_at
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
           case when l.status = 'success' then l.finished_at end as delivered_at,
           null::timestamptz as next_retry_at
    from bridge.delivery_log l
    left join bridge.events e on e.id = l.event_id and e.recorded_at = l.event_recorded_at;
comment on view bridge.webhook_deliveries is
    'Every delivery, pending or finished. status: pending (queued, in flight or waiting for a retry), success, failed.';
