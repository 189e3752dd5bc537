-- Deliveries that can be paced, ordered, paused, redelivered and timed; a breaker for each webhook.

alter table bridge.webhooks
    add column filter                     jsonpath,
    add column rate_per_second            double precision,
    add column ordered                    boolean     not null default false,
    add column retry_schedule             double precision[],
    add column previous_secret            text,
    add column previous_secret_expires_at timestamptz,
    add column paused_at                  timestamptz,
    add column failure_share              real        not null default 0,
    add column failing_since              timestamptz,
    add column probe_at                   timestamptz,
    add column paced_until                timestamptz,
    add column delivered_count            bigint      not null default 0,
    add column failed_count               bigint      not null default 0,
    -- A variable, such as $amount for $.amount, is nowhere given a value.
    add constraint webhooks_filter_without_variables check (
        regexp_replace(filter::text, '"([^"\\]|\\.)*"', '""', 'g') not like '%$""%'),
    -- It is evaluated in the drain: one that takes exponential time would hold up every event.
    add constraint webhooks_filter_bounded check (
        regexp_replace(filter::text, '"([^"\\]|\\.)*"', '""', 'g') !~ '\*\*|\?.*\?'),
    add constraint webhooks_rate_per_second_range check (rate_per_second between 0.001 and 100000),
    add constraint webhooks_retry_schedule_range check (
        cardinality(retry_schedule) between 1 and 100
        and array_ndims(retry_schedule) = 1 and array_position(retry_schedule, null) is null
        and 0 <= all (retry_schedule) and 2592000 >= all (retry_schedule)),
    add constraint webhooks_previous_secret_whole check (
        (previous_secret is null) = (previous_secret_expires_at is null) and previous_secret <> ''),
    add constraint webhooks_failure_share_range check (failure_share between 0 and 1);

comment on column bridge.webhooks.is_active is
    'Only active webhooks get new deliveries. What is queued for one that is switched off is kept, and sent once it is switched on.';
comment on column bridge.webhooks.paused_at is
    'Since when its deliveries wait; null: they do not. Unlike one that is switched off, a paused webhook gets new deliveries, which wait, too.';
comment on column bridge.webhooks.secret is
    'Key of the signatures; without one, requests are not signed. Encrypted if it begins with fernet:.';
comment on column bridge.webhooks.previous_secret is
    'The key before the last rotation: requests are signed with both until previous_secret_expires_at.';
comment on column bridge.webhooks.filter is
    'jsonpath predicate on the payload, such as $.amount_kopeks >= 100000: only events for which it is true are delivered. An error in it means no. $ ? (…) is no predicate: it is never true. At most one ? (…) and no **, so that it is evaluated fast.';
comment on column bridge.webhooks.rate_per_second is
    'Most attempts a second, over all bridges; a second''s worth may go at once. Null: no limit.';
comment on column bridge.webhooks.ordered is
    'One attempt at a time, in the order of events: each waits until the one before has succeeded or was given up.';
comment on column bridge.webhooks.retry_schedule is
    'Seconds to wait before each attempt, the first included; as many attempts are made as there are. Null: BRIDGE_RETRY_SCHEDULE.';
comment on column bridge.webhooks.failure_share is
    'Which share of the last attempts failed, about ten of them: each attempt weighs a tenth, what was before nine tenths. The larger, the fewer attempts are in flight at once.';
comment on column bridge.webhooks.failing_since is
    'Start of the first failed attempt since the last success; null: the last attempt succeeded, or there was none.';
comment on column bridge.webhooks.probe_at is
    'The breaker. Null: closed. Otherwise it is open: deliveries wait, and from then on one is tried, to see whether the receiver is back.';
comment on column bridge.webhooks.paced_until is
    'With rate_per_second: until when the rate is used up by what was claimed; null: nothing was yet.';
comment on column bridge.webhooks.delivered_count is 'Deliveries in the log that succeeded. Kept by settle, requeue and drop_expired_partition, so that nobody has to count the log.';
comment on column bridge.webhooks.failed_count is 'Deliveries in the log that were given up.';

create table bridge.deleted_webhooks (
    id              bigint      not null,
    name            text,
    url             text,
    event_type      text,
    deleted_at      timestamptz,
    delivered_count bigint      not null,
    failed_count    bigint      not null,
    constraint deleted_webhooks_pkey primary key (id)
);
comment on table bridge.deleted_webhooks is
    'Webhooks that are deleted and still have deliveries in the log: what they were, and how many those are. A row goes with the last of them. Null: deleted before this was kept.';

with logged as (
    select webhook_id,
           count(*) filter (where status = 'success') as delivered,
           count(*) filter (where status = 'failed') as failed
    from bridge.delivery_log
    group by webhook_id
), kept as (
    update bridge.webhooks w
    set delivered_count = logged.delivered, failed_count = logged.failed
    from logged
    where logged.webhook_id = w.id
)
insert into bridge.deleted_webhooks (id, delivered_count, failed_count)
select webhook_id, delivered, failed
from logged
where not exists (select from bridge.webhooks w where w.id = logged.webhook_id);

create function bridge.note_deleted_webhook() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into bridge.deleted_webhooks
        (id, name, url, event_type, deleted_at, delivered_count, failed_count)
    values (old.id, old.name, old.url, old.event_type, now(), old.delivered_count, old.failed_count);
    return null;
end
$$;
comment on function bridge.note_deleted_webhook() is
    'Trigger: keeps what a deleted webhook was for as long as the log has deliveries to it.';
create trigger note_deleted_webhook
    after delete on bridge.webhooks
    for each row when (old.delivered_count > 0 or old.failed_count > 0)
    execute function bridge.note_deleted_webhook();

create function bridge.forgive_webhook() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    new.disabled_reason := null;
    new.failing_since := null;
    new.failure_share := 0;
    new.probe_at := null;
    return new;
end
$$;
comment on function bridge.forgive_webhook() is
    'Trigger: whoever switches a webhook on, by whatever way, has dealt with what it was off for. With its old failing_since, its first failure would switch it off again.';
create trigger forgive_webhook
    before update of is_active on bridge.webhooks
    for each row when (new.is_active and not old.is_active)
    execute function bridge.forgive_webhook();

create function bridge.passes(p_filter jsonpath, p_payload jsonb) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return p_filter is null or coalesce(jsonb_path_match_tz(p_payload, p_filter, '{}', true), false);
exception when others then
    return false;
end
$$;
comment on function bridge.passes(jsonpath, jsonb) is
    'Whether a webhook with this filter takes this payload. Errors mean no: some, such as a variable without a value or nesting too deep, not even jsonpath''s silent mode and its operators keep to themselves, and one webhook''s filter would stop the drain for all.';

alter table bridge.events add column committed_at timestamptz;
comment on column bridge.events.occurred_at is
    'When the trigger fired: at the application''s statement or, for a deferred rule, at its commit.';
comment on column bridge.events.committed_at is
    'When the application''s transaction was committed, if the server has track_commit_timestamp on; else null.';

alter table bridge.delivery_queue
    add column captured_at         timestamptz,
    add column committed_at        timestamptz,
    add column claimed_at          timestamptz,
    add column attempts_before     integer not null default 0,
    add column is_redelivery       boolean not null default false;
comment on column bridge.delivery_queue.captured_at is 'events.occurred_at.';
comment on column bridge.delivery_queue.committed_at is
    'When the event was committed: events.committed_at or, where that is not known, captured_at, which is a little earlier.';
comment on column bridge.delivery_queue.claimed_at is 'When a courier took it for its last attempt.';
comment on column bridge.delivery_queue.attempts_before is
    'Attempts made before it was redelivered: the retry schedule begins anew after them.';
comment on column bridge.delivery_queue.is_redelivery is
    'Put back by redeliver: what is new goes first.';

drop index bridge.delivery_queue_due;
create index delivery_queue_due on bridge.delivery_queue (webhook_id, is_redelivery, next_attempt_at, id);
comment on index bridge.delivery_queue_due is
    'claim: a webhook''s deliveries that are due, oldest first, what is new before redeliveries.';
create index delivery_queue_order on bridge.delivery_queue (webhook_id, id);
comment on index bridge.delivery_queue_order is
    'claim: the first delivery of an ordered webhook. list_deliveries: a webhook''s deliveries, newest first.';

alter table bridge.delivery_log
    add column captured_at     timestamptz,
    add column committed_at    timestamptz,
    add column claimed_at      timestamptz,
    add column sent_at         timestamptz,
    add column acknowledged_at timestamptz;
comment on column bridge.delivery_log.captured_at is 'events.occurred_at.';
comment on column bridge.delivery_log.committed_at is
    'When the event was committed: events.committed_at or, where that is not known, captured_at, which is a little earlier.';
comment on column bridge.delivery_log.claimed_at is 'When a courier took it for its last attempt.';
comment on column bridge.delivery_log.sent_at is 'When the last attempt began, by the database''s clock.';
comment on column bridge.delivery_log.acknowledged_at is
    'When the receiver''s 2xx had arrived, by the database''s clock; null if it never did.';
-- Rows arrive in the order of time: a few pages of index lead to the last hour.
create index delivery_log_time on bridge.delivery_log using brin (finished_at) with (pages_per_range = 32);
comment on index bridge.delivery_log_time is 'webhook_health: what was finished in the last hour.';

alter table bridge.delivery_attempts
    add column failure text;
comment on column bridge.delivery_attempts.started_at is 'When it began to connect or to send, by the database''s clock.';
comment on column bridge.delivery_attempts.finished_at is 'When the answer, or the failure, was complete.';
comment on column bridge.delivery_attempts.failure is
    'What kind of failure: http_4xx, http_5xx, timeout_connect, dns, … (bridge/delivery/retry.py has the table); null if it succeeded.';
create index delivery_attempts_time on bridge.delivery_attempts using brin (finished_at) with (pages_per_range = 32);
comment on index bridge.delivery_attempts_time is 'webhook_health: the attempts of the last hour.';

create or replace function bridge.drop_expired_partition(p_parent text, p_keep_days integer) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '300ms'
as $$
declare
    v_expired record;
    v_counts  jsonb := '{}';
begin
    perform pg_advisory_xact_lock(hashtext('bridge.partitions'));
    -- What is redelivered meanwhile would be missing from its day and from the count of it, and its
    -- event would be pending again after it was looked for. (requeue has the other half.)
    perform pg_advisory_xact_lock(hashtext('bridge.redelivery'));
    for v_expired in
        select c.relname, day.date::timestamp at time zone 'UTC' as starts_at
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        cross join lateral (
            -- A case, since a plan may come to this before it has joined: for other tables, too.
            select case when c.relname ~ '_p[0-9]{8}$' then to_date(right(c.relname, 8), 'YYYYMMDD') end as date
        ) as day
        where i.inhparent = to_regclass(format('bridge.%I', p_parent))
          and day.date < (now() at time zone 'UTC')::date - p_keep_days
        order by c.relname
    loop
        -- What is still to be delivered keeps its payload.
        continue when p_parent = 'events' and exists (
            select from bridge.delivery_queue q
            where q.event_recorded_at >= v_expired.starts_at
              and q.event_recorded_at < v_expired.starts_at + interval '24 hours');
        if p_parent in ('delivery_log_success', 'delivery_log_failed') then
            -- Before any lock that others could meet: it may take a while.
            execute format(
                'select coalesce(jsonb_object_agg(webhook_id, count), ''{}'')'
                ' from (select webhook_id, count(*) as count from bridge.%I group by webhook_id) as counted',
                v_expired.relname) into v_counts;
        end if;
        -- Dropping locks out everybody for a moment; but whoever reads the log for long has the drop
        -- wait, and everybody else behind it. So it is tried a few times, each time briefly.
        perform set_config('lock_timeout', '20ms', true);
        for v_try in 1..10 loop
            begin
                if p_parent in ('delivery_log_success', 'delivery_log_failed') then
                    -- A settle takes this lock before any other: with it, none is under way that has
                    -- locked a webhook and waits for the log, or the other way round.
                    lock table only bridge.delivery_log in share row exclusive mode;
                end if;
                execute format('drop table bridge.%I', v_expired.relname);
                perform from bridge.webhooks where v_counts ? id::text order by id for no key update;
                update bridge.webhooks w
                set delivered_count = w.delivered_count
                        - case p_parent when 'delivery_log_success' then dropped.count::bigint else 0 end,
                    failed_count = w.failed_count
                        - case p_parent when 'delivery_log_failed' then dropped.count::bigint else 0 end
                from jsonb_each_text(v_counts) as dropped(webhook_id, count)
                where w.id = dropped.webhook_id::bigint;
                update bridge.deleted_webhooks w
                set delivered_count = w.delivered_count
                        - case p_parent when 'delivery_log_success' then dropped.count::bigint else 0 end,
                    failed_count = w.failed_count
                        - case p_parent when 'delivery_log_failed' then dropped.count::bigint else 0 end
                from jsonb_each_text(v_counts) as dropped(webhook_id, count)
                where w.id = dropped.webhook_id::bigint;
                delete from bridge.deleted_webhooks where delivered_count <= 0 and failed_count <= 0;
                return v_expired.relname;
            exception when lock_not_available then
                if v_try = 10 then
                    raise;
                end if;
                perform pg_sleep(0.01);
            end;
        end loop;
    end loop;
    return null;
end
$$;
comment on function bridge.drop_expired_partition(text, integer) is
    'Drops the oldest partition of a log whose whole day is older than the days to keep, and takes it from the counts of the webhooks. Returns its name; null if there is none. Raises lock_not_available after about 0.3 s if somebody is reading the log.';

create or replace view bridge.webhook_deliveries as
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
           case when l.status = 'success' then l.finished_at end as delivered_at,
           null::timestamptz as next_retry_at,
           l.event_id,
           l.committed_at,
           l.captured_at,
           l.claimed_at,
           l.sent_at,
           l.acknowledged_at,
           l.finished_at
    from bridge.delivery_log l
    left join bridge.events e on e.id = l.event_id and e.recorded_at = l.event_recorded_at;
comment on column bridge.webhook_deliveries.committed_at is
    'When the event was committed, or captured where the server does not track commit timestamps.';
comment on column bridge.webhook_deliveries.captured_at is 'When the trigger fired.';
comment on column bridge.webhook_deliveries.claimed_at is 'When a courier took it for its last attempt.';
comment on column bridge.webhook_deliveries.sent_at is 'When the last attempt began; null while pending.';
comment on column bridge.webhook_deliveries.acknowledged_at is 'When the receiver''s 2xx had arrived.';
comment on column bridge.webhook_deliveries.finished_at is
    'When it succeeded or was given up; null while pending. By it the days of the log are kept, and redeliver_failed chooses.';

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
comment on view bridge.backlog is 'What is still to be delivered, for each webhook.';
comment on column bridge.backlog.pending is 'Deliveries that are not finished: in flight, due, waiting for a retry or for their turn.';
comment on column bridge.backlog.due is 'Deliveries that could be sent now, if the webhook''s limits, pause and breaker allow.';
comment on column bridge.backlog.oldest_created_at is
    'When the oldest of them was enqueued. Redeliveries do not count: they are as old as their first time.';
comment on column bridge.backlog.oldest_seconds is 'Seconds since oldest_created_at.';

create view bridge.webhook_health as
    select w.id as webhook_id,
           w.name,
           case
               when not w.is_active and w.disabled_reason is not null then 'disabled'
               when not w.is_active then 'off'
               when w.paused_at is not null then 'paused'
               when w.probe_at is not null then 'failing'
               else 'delivering'
           end as state,
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
    'How each webhook does: its state, what waits for it, and its last hour and day. Rates are percent of attempts; times are seconds.';
comment on column bridge.webhook_health.state is
    'delivering; failing: the breaker is open and one delivery is tried at probe_at; paused: by pause_webhook; disabled: switched off by the bridge, see disabled_reason; off: switched off by somebody.';
comment on column bridge.webhook_health.commit_to_acknowledged_p95_hour is
    'Seconds from the application''s commit to the receiver''s 2xx, retries and waiting included.';
comment on column bridge.webhook_health.answer_p95_hour is
    'Seconds an attempt takes, failed ones included: what the receiver and the way to it are like.';

create function bridge.wake_couriers() returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    select pg_notify('bridge_deliveries', '')
$$;
comment on function bridge.wake_couriers() is
    'Has the bridges look for due deliveries at once, and not only at the next poll.';

create function bridge.emit(p_event_type text, p_payload jsonb default '{}') returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_event_type is null or p_event_type !~ '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$' or length(p_event_type) > 255 then
        raise 'not an event type: %', coalesce(p_event_type, 'null')
            using errcode = 'invalid_parameter_value',
                  hint = 'letters, digits, _ and -, in parts joined by dots, such as order.paid';
    end if;
    if p_payload is null then
        raise 'the payload of an event is JSON, not null' using errcode = 'invalid_parameter_value';
    end if;
    insert into bridge.outbox (event_type, payload) values (p_event_type, p_payload);
    perform bridge.ring();
end
$$;
comment on function bridge.emit(text, jsonb) is
    'Makes an event by hand: it goes to the live stream and to the webhooks like a captured one, once the transaction is committed.';

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
    'Has a webhook''s deliveries wait, new ones included, until resume_webhook. What is in flight ends.';

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
    'Has a webhook deliver again at once, whatever it was that kept it: a pause, the breaker, or being switched off.';

create function bridge.requeue(p_webhook_id bigint, p_delivery_ids bigint[], p_per_second double precision) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_requeued bigint;
begin
    -- The other half of what drop_expired_partition does: only one of the two at a time.
    perform pg_advisory_xact_lock_shared(hashtext('bridge.redelivery'));
    -- One session at a time for each webhook; and it stays while its deliveries come back.
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
            (id, webhook_id, event_id, event_recorded_at, event_type, attempt_number, attempts_before,
             is_redelivery, created_at, next_attempt_at, captured_at, committed_at,
             response_status, response_body, error_message)
        overriding system value
        select id, webhook_id, event_id, event_recorded_at, event_type, attempt_number, attempt_number,
               true, created_at,
               clock_timestamp() + make_interval(secs => (row_number() over (order by id) - 1) / p_per_second),
               captured_at, committed_at, response_status, response_body, error_message
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
    'Moves finished deliveries of a webhook from the log back to the queue, due one after the other at a rate, and returns how many. For redeliver and redeliver_failed.';

create function bridge.redeliver(p_delivery_id bigint) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_finished record;
begin
    loop
        update bridge.delivery_queue
        set next_attempt_at = least(next_attempt_at, clock_timestamp())
        where id = p_delivery_id;
        if found then
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
            -- Somebody may have put it back between the two looks.
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
            perform bridge.wake_couriers();
            return true;
        end if;
        -- Something has changed since it was looked at: look again.
    end loop;
end
$$;
comment on function bridge.redeliver(bigint) is
    'Sends a delivery again, whatever became of it, with the same webhook-id: its attempts go on counting, and the retry schedule begins anew. One that is still pending is sent at once, and returns false.';

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
    -- Null is no order to act.
    if p_dry_run is distinct from false then
        return coalesce(cardinality(v_delivery_ids), 0);
    end if;
    v_requeued := bridge.requeue(p_webhook_id, coalesce(v_delivery_ids, '{}'), p_per_second);
    perform bridge.wake_couriers();
    return v_requeued;
end
$$;
comment on function bridge.redeliver_failed(bigint, timestamptz, timestamptz, boolean, double precision) is
    'Sends again what a webhook failed to take in a range of time (by finished_at), so many a second, new deliveries first. With p_dry_run only counts. Returns how many.';
