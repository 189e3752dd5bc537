-- A page of a webhook's deliveries, newest first; every row brings how many there are in all, and
-- after which id the next page begins (null: this is the last).
-- No row: there is no such webhook. One row without an id: the page is empty.
-- The queue and the logs are searched one by one, because each has an index that gives its ids in
-- order and the view over them has none; the view then shows the few that the page holds.
-- $1 webhook, $2 status or null for any, $3 rows to skip and to show and one more, $4 rows to skip,
-- $5 rows to show, $6 only ids below this one, or null for any
with matching as materialized (
    select (select count(*) from bridge.delivery_queue
            where webhook_id = $1 and coalesce($2::text, 'pending') = 'pending')
         + case when coalesce($2, 'success') = 'success' then w.delivered_count else 0 end
         + case when coalesce($2, 'failed') = 'failed' then w.failed_count else 0 end as total
    from bridge.webhooks w
    where w.id = $1
), newest as materialized (
    select candidate.id
    from (
        (select id from bridge.delivery_queue
         where webhook_id = $1 and coalesce($2, 'pending') = 'pending'
           and id < coalesce($6::bigint, 9223372036854775807)
         order by id desc limit $3)
        union all
        (select id from bridge.delivery_log_success
         where webhook_id = $1 and coalesce($2, 'success') = 'success'
           and id < coalesce($6, 9223372036854775807)
         order by id desc limit $3)
        union all
        (select id from bridge.delivery_log_failed
         where webhook_id = $1 and coalesce($2, 'failed') = 'failed'
           and id < coalesce($6, 9223372036854775807)
         order by id desc limit $3)
    ) as candidate
    order by candidate.id desc
    limit $3
), page as materialized (
    select id from newest order by id desc limit $5 offset $4
)
select matching.total,
       case when (select count(*) from newest) - $4 > $5 then (select min(id) from page) end
           as next_before_id,
       d.id, d.webhook_id, d.event_type, d.payload, d.response_status, d.response_body, d.status,
       d.error_message, d.attempt_number, d.created_at, d.delivered_at, d.next_retry_at
from matching
left join bridge.webhook_deliveries d
    on d.webhook_id = $1 and d.id = any (array(select id from page))
order by d.id desc;
