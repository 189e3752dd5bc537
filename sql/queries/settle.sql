-- Writes down what became of attempts, in one batch: the attempt itself always; the delivery only
-- where the lease is still ours, so that a courier that slept past its lease changes nothing.
-- One array element is one attempt:
-- $1 delivery, $2 lease token, $3 webhook, $4 number of the attempt, $5 and $6 start and end,
-- $7 outcome (success, retry, failed), $8 seconds until the next attempt, $9 response status,
-- $10 response body, $11 error, $12 reason to disable the webhook
with settled as materialized (
    select *
    from unnest(
        $1::bigint[], $2::uuid[], $3::bigint[], $4::integer[], $5::timestamptz[],
        $6::timestamptz[], $7::text[], $8::double precision[], $9::integer[], $10::text[],
        $11::text[], $12::text[]
    ) as s(delivery_id, lease_token, webhook_id, attempt_number, started_at,
           finished_at, outcome, retry_seconds, response_status, response_body,
           error_message, disable)
), webhooks as materialized (
    -- Always in the same order: two couriers that settle at once do not deadlock.
    select id
    from bridge.webhooks
    where id = any (array(select webhook_id from settled))
    order by id
    for no key update
), attempted as (
    insert into bridge.delivery_attempts
        (delivery_id, webhook_id, attempt_number, started_at, finished_at,
         response_status, response_body, error_message)
    select delivery_id, webhook_id, attempt_number, started_at, finished_at,
           response_status, response_body, error_message
    from settled
), finished as (
    delete from bridge.delivery_queue q
    using settled s
    where q.id = s.delivery_id and q.lease_token = s.lease_token and s.outcome <> 'retry'
    returning q.id, q.webhook_id, q.event_id, q.event_recorded_at, q.event_type, q.created_at,
              s.outcome, s.attempt_number, s.response_status, s.response_body, s.error_message
), logged as (
    insert into bridge.delivery_log
        (id, webhook_id, event_id, event_recorded_at, event_type, status, attempt_number,
         response_status, response_body, error_message, created_at)
    select id, webhook_id, event_id, event_recorded_at, event_type, outcome, attempt_number,
           response_status, response_body, error_message, created_at
    from finished
    returning id
), retried as (
    update bridge.delivery_queue q
    set attempt_number = s.attempt_number,
        next_attempt_at = now() + make_interval(secs => s.retry_seconds),
        leased_until = null,
        lease_token = null,
        response_status = s.response_status,
        response_body = s.response_body,
        error_message = s.error_message
    from settled s
    where q.id = s.delivery_id and q.lease_token = s.lease_token and s.outcome = 'retry'
    returning q.id
), counted as (
    update bridge.webhooks w
    set last_triggered_at = totals.finished_at,
        success_count = w.success_count + totals.successes,
        failure_count = w.failure_count + totals.failures,
        is_active = w.is_active and totals.disable is null,
        disabled_reason = coalesce(totals.disable, w.disabled_reason)
    from webhooks locked
    join (
        select webhook_id,
               max(finished_at) as finished_at,
               count(*) filter (where outcome = 'success') as successes,
               count(*) filter (where outcome <> 'success') as failures,
               max(disable) as disable
        from settled
        group by webhook_id
    ) as totals on totals.webhook_id = locked.id
    where w.id = locked.id
)
select id from logged
union all
select id from retried;
