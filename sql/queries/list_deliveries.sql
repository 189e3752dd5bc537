-- A page of a webhook's deliveries, newest first; every row brings how many there are in all.
-- No row: there is no such webhook. One row without an id: the page is empty.
-- The queue and the logs are searched one by one, because each has an index that gives its ids in
-- order and the view over them has none; the view then shows the few that the page holds.
-- $1 webhook, $2 status or null for any, $3 rows to skip and to show together, $4 rows to skip
with matching as materialized (
    select (select count(*) from bridge.delivery_queue
            where webhook_id = $1 and coalesce($2::text, 'pending') = 'pending')
         + (select count(*) from bridge.delivery_log_success
            where webhook_id = $1 and coalesce($2, 'success') = 'success')
         + (select count(*) from bridge.delivery_log_failed
            where webhook_id = $1 and coalesce($2, 'failed') = 'failed') as total
), newest as materialized (
    select candidate.id
    from (
        (select id from bridge.delivery_queue
         where webhook_id = $1 and coalesce($2, 'pending') = 'pending'
         order by id desc limit $3)
        union all
        (select id from bridge.delivery_log_success
         where webhook_id = $1 and coalesce($2, 'success') = 'success'
         order by id desc limit $3)
        union all
        (select id from bridge.delivery_log_failed
         where webhook_id = $1 and coalesce($2, 'failed') = 'failed'
         order by id desc limit $3)
    ) as candidate
    order by candidate.id desc
    limit $3 - $4 offset $4
)
select matching.total, d.id, d.webhook_id, d.event_type, d.payload, d.response_status,
       d.response_body, d.status, d.error_message, d.attempt_number, d.created_at,
       d.delivered_at, d.next_retry_at
from bridge.webhooks w
cross join matching
left join bridge.webhook_deliveries d
    on d.webhook_id = $1 and d.id = any (array(select id from newest))
where w.id = $1
order by d.id desc;
