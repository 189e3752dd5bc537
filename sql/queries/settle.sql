-- Records the outcome of a batch of attempts. The attempt itself is always recorded; the delivery only
-- changes if the lease is still ours, so that a courier that overslept its lease changes nothing. Also
-- updates what the attempts say about their webhooks.
-- Arrays with one element per attempt:
-- $1 delivery, $2 lease token, $3 webhook, $4 attempt number, $5 and $6 start and end, $7 outcome
-- (success, retry, failed), $8 seconds until the next attempt, $9 response status, $10 response body,
-- $11 kind of failure, $12 error, $13 reason to disable the webhook, $14 seconds that the receiver asked
-- to wait, $15 whether the breaker was open when it was claimed, so that it was the probe
-- For all: $16 seconds of failing after which a webhook is disabled, $17 seconds between two updates of a
-- webhook that only has successes; the row with uncounted_id is for count_successes
with settled as materialized (
    select *
    from unnest(
        $1::bigint[], $2::uuid[], $3::bigint[], $4::integer[], $5::timestamptz[],
        $6::timestamptz[], $7::text[], $8::double precision[], $9::integer[], $10::text[],
        $11::text[], $12::text[], $13::text[], $14::double precision[], $15::boolean[]
    ) as s(delivery_id, lease_token, webhook_id, attempt_number, started_at,
           finished_at, outcome, retry_seconds, response_status, response_body,
           failure, error_message, disable, pause_seconds, is_probe)
), webhooks as materialized (
    -- Lock in a fixed order, so that couriers that settle at once do not deadlock. Locked rows show
    -- their current values, not those from the start of the statement.
    select id, name, event_type, is_active, probe_at, failure_share, failing_since, last_triggered_at
    from bridge.webhooks
    where id = any (array(select webhook_id from settled))
    order by id
    for no key update
), attempted as (
    insert into bridge.delivery_attempts
        (delivery_id, webhook_id, attempt_number, started_at, finished_at,
         response_status, response_body, failure, error_message)
    select delivery_id, webhook_id, attempt_number, started_at, finished_at,
           response_status, response_body, failure, error_message
    from settled
), finished as (
    delete from bridge.delivery_queue q
    using settled s
    where q.id = s.delivery_id and q.lease_token = s.lease_token and s.outcome <> 'retry'
    returning q.id, q.webhook_id, q.event_id, q.event_recorded_at, q.event_type, q.created_at,
              q.captured_at, q.committed_at, q.claimed_at, s.started_at, s.finished_at,
              s.outcome, s.attempt_number, s.response_status, s.response_body, s.error_message
), logged as (
    insert into bridge.delivery_log
        (id, webhook_id, event_id, event_recorded_at, event_type, status, attempt_number,
         response_status, response_body, error_message, created_at,
         captured_at, committed_at, claimed_at, sent_at, acknowledged_at)
    select id, webhook_id, event_id, event_recorded_at, event_type, outcome, attempt_number,
           response_status, response_body, error_message, created_at,
           captured_at, committed_at, claimed_at, started_at,
           case when outcome = 'success' then finished_at end
    from finished
    returning id, webhook_id, status
), retried as (
    update bridge.delivery_queue q
    set attempt_number = s.attempt_number,
        next_attempt_at = now() + make_interval(secs => s.retry_seconds),
        leased_until = null,
        lease_token = null,
        lease_owner = null,
        response_status = s.response_status,
        response_body = s.response_body,
        error_message = s.error_message
    from settled s
    where q.id = s.delivery_id and q.lease_token = s.lease_token and s.outcome = 'retry'
    returning q.id
), totals as (
    select s.webhook_id,
           max(s.finished_at) as finished_at,
           min(s.started_at) as started_at,
           count(*) filter (where s.outcome = 'success') as successes,
           count(*) filter (where s.outcome <> 'success') as failures,
           max(s.disable) as disable,
           max(s.pause_seconds) as pause_seconds,
           bool_or(s.is_probe) as was_probed,
           coalesce(max(l.delivered), 0) as delivered,
           coalesce(max(l.failed), 0) as failed
    from settled s
    left join (
        select webhook_id,
               count(*) filter (where status = 'success') as delivered,
               count(*) filter (where status = 'failed') as failed
        from logged
        group by webhook_id
    ) as l on l.webhook_id = s.webhook_id
    group by s.webhook_id
), judged as (
    select w.id, w.name, w.event_type, t.*,
           w.is_active as was_active,
           w.probe_at is not null and w.failure_share >= 0.8 as was_failing,
           w.failing_since as had_been_failing_since,
           share.failure_share,
           since.failing_since,
           -- Whether nothing changes but counters, which can wait.
           t.failures = 0 and w.failing_since is null and w.probe_at is null and w.failure_share < 0.1
           and coalesce(w.last_triggered_at > now() - make_interval(secs => $17), false) as is_postponed,
           breaker.probe_at,
           case
               when not w.is_active then null
               when t.disable is not null then t.disable
               when share.failure_share >= 0.8 and since.failing_since < now() - make_interval(secs => $16)
                   then format('nothing but failures since %s',
                               to_char(since.failing_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'))
           end as disabled_reason
    from webhooks w
    join totals t on t.webhook_id = w.id
    cross join lateral (
        -- Without the lower bound, thousands of successes after a failure would underflow.
        select case when mean >= 0.001 then mean else 0 end::real as failure_share
        from (
            select w.failure_share * power(0.9, t.successes + t.failures)
                + (1 - power(0.9, t.successes + t.failures))
                  * t.failures / (t.successes + t.failures) as mean
        ) as moving
    ) as share
    cross join lateral (
        -- Of a pause between two attempts, only a tenth of the time limit counts. The rest was not the
        -- receiver's failure: the bridge was down, the webhook paused, or the database is a backup.
        select case when t.successes = 0 then coalesce(
            -- In seconds: a day may have 25 hours in the session's time zone.
            w.failing_since + make_interval(secs => greatest(
                extract(epoch from t.started_at - w.last_triggered_at)::double precision - $16 / 10, 0)),
            t.started_at) end as failing_since
    ) as since
    cross join lateral (
        -- The pause that the receiver asked for, within bounds; with jitter, so that a receiver's
        -- webhooks do not all return at once.
        select case when t.pause_seconds > 0 then
            now() + make_interval(secs => least(t.pause_seconds, 600) * (1 + 0.2 * random()))
        end as until
    ) as asked
    cross join lateral (
        select case
            -- Only the probe decides. Failures of attempts sent before it say nothing new, and
            -- their successes do not cancel a pause that the receiver has asked for since.
            when w.probe_at is not null and not t.was_probed and (t.successes = 0 or w.failure_share < 0.8)
                then greatest(w.probe_at, asked.until)
            -- The longer it has been failing, the less often it is tried: every ten seconds to
            -- every ten minutes, with jitter.
            when t.successes = 0 and share.failure_share >= 0.8 then greatest(
                asked.until,
                now() + make_interval(secs => (0.8 + 0.4 * random()) * least(greatest(
                    extract(epoch from now() - since.failing_since)::double precision / 4, 10), 600)))
            else asked.until
        end as probe_at
    ) as breaker
), counted as (
    update bridge.webhooks w
    set last_triggered_at = j.finished_at,
        success_count = w.success_count + j.successes,
        failure_count = w.failure_count + j.failures,
        delivered_count = w.delivered_count + j.delivered,
        failed_count = w.failed_count + j.failed,
        failure_share = j.failure_share,
        failing_since = j.failing_since,
        probe_at = case when j.disabled_reason is null then j.probe_at end,
        is_active = w.is_active and j.disabled_reason is null,
        disabled_reason = coalesce(j.disabled_reason, w.disabled_reason)
    from judged j
    where w.id = j.id and not j.is_postponed
), postponed as (
    insert into bridge.uncounted_successes (webhook_ids, attempts, delivered)
    select array_agg(id), array_agg(successes), array_agg(delivered)
    from judged
    where is_postponed
    having count(*) > 0
    returning id
), announced as (
    insert into bridge.outbox (event_type, payload)
    select 'webhook.disabled',
           jsonb_build_object('webhook_id', id, 'name', name, 'event_type', event_type, 'reason', disabled_reason)
    from judged
    where disabled_reason is not null
    union all
    select 'webhook.recovered',
           jsonb_build_object('webhook_id', id, 'name', name, 'event_type', event_type,
                              'failing_since', had_been_failing_since)
    from judged
    where was_failing and successes > 0 and probe_at is null and was_active and disabled_reason is null
    returning id
), rung as (
    -- The final query reads the count, or the planner would drop this CTE.
    select count(bridge.ring()::text) as count from announced
)
select id, null::bigint as uncounted_id from logged
union all
select id, null from retried
union all
select null, id from postponed
union all
select null, null from rung where count < 0;
