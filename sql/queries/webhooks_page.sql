-- A page of webhooks for the console, newest first, with figures that are cheap however long the log
-- is: the webhook's own columns, its backlog up to a limit, and its last success. (webhook_health counts
-- a day of attempts.) The conditions on pairs mean webhook_id = p.id, but only allow the index on
-- (webhook_id, id): the primary key could search the deliveries of every webhook.
-- $1 lowest and $2 highest id, $3 page size, $4 most pending deliveries to count per webhook
with page as materialized (
    select *
    from bridge.webhooks
    where id between $1 and $2
    order by id desc
    limit $3
)
select p.id, p.name, p.url, p.event_type, p.state,
       -- Over about the last ten attempts; null before the first.
       case when p.last_triggered_at is not null then 1 - p.failure_share end as success_share,
       p.secret is not null as is_signed,
       case when p.previous_secret_expires_at > now() then p.previous_secret_expires_at end
           as previous_secret_expires_at,
       p.delivered_count, p.failed_count,
       waiting.pending, waiting.due, waiting.oldest_pending_at,
       extract(epoch from now() - waiting.oldest_pending_at)::double precision as oldest_pending_seconds,
       logged.last_success_at,
       extract(epoch from now() - logged.last_success_at)::double precision as last_success_seconds
from page p
cross join lateral (
    select count(*) as pending,
           count(*) filter (
               where next_attempt_at <= now() and (leased_until is null or leased_until <= now())) as due,
           min(created_at) filter (where not is_redelivery) as oldest_pending_at
    from (
        select next_attempt_at, leased_until, created_at, is_redelivery
        from bridge.delivery_queue
        where (webhook_id, id) > (p.id, 0) and (webhook_id, id) < (p.id + 1, 0)
        order by webhook_id, id
        limit $4
    ) as oldest
) as waiting
cross join lateral (
    -- The last success need not have the highest id, but it is among the highest.
    select max(finished_at) as last_success_at
    from (
        select finished_at
        from bridge.delivery_log_success
        where (webhook_id, id) > (p.id, 0) and (webhook_id, id) < (p.id + 1, 0)
        order by webhook_id desc, id desc
        limit 20
    ) as newest
) as logged
order by p.id desc;
