-- Adds successes to the counters of their webhooks that settle left for later.
-- $1 ids of the rows; null: those that are a minute old, because their bridge has not counted them
with counted as (
    delete from bridge.uncounted_successes
    where id = any (case
        when $1::bigint[] is not null then $1
        else array(select id from bridge.uncounted_successes where recorded_at < now() - interval '1 minute')
    end)
    returning recorded_at, webhook_ids, attempts, delivered
), totals as materialized (
    select each.webhook_id, max(recorded_at) as recorded_at, sum(each.attempts) as attempts,
           sum(each.delivered) as delivered
    from counted
    cross join lateral unnest(webhook_ids, attempts, delivered) as each(webhook_id, attempts, delivered)
    group by each.webhook_id
), locked as materialized (
    -- In the same order as settle.
    select id
    from bridge.webhooks
    where id = any (array(select webhook_id from totals))
    order by id
    for no key update
), deleted as (
    update bridge.deleted_webhooks d
    set delivered_count = d.delivered_count + t.delivered
    from totals t
    where d.id = t.webhook_id
)
update bridge.webhooks w
set last_triggered_at = greatest(w.last_triggered_at, t.recorded_at),
    success_count = w.success_count + t.attempts,
    delivered_count = w.delivered_count + t.delivered,
    failure_share = case when t.attempts < 100 and w.failure_share * power(0.9, t.attempts) >= 0.001
                         then w.failure_share * power(0.9, t.attempts) else 0 end
from totals t
join locked on locked.id = t.webhook_id
where w.id = t.webhook_id;
