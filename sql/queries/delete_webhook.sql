-- Deletes a webhook and its pending deliveries. Its log entries stay until they expire.
-- With more than 5,000 pending deliveries it only switches the webhook off and deletes 5,000 of them:
-- repeat until is_deleted. One huge statement could exceed its time limit, and would hold up the drain,
-- which waits for the webhook's row. No row if the webhook does not exist.
-- $1 webhook id
with webhook as materialized (
    select w.id,
           exists (
               select from bridge.delivery_queue q
               where q.webhook_id = w.id order by q.webhook_id, q.id offset 5000) as is_large
    from bridge.webhooks w
    where w.id = $1
), deleted as (
    delete from bridge.webhooks w
    using webhook
    where w.id = webhook.id and not webhook.is_large
    returning w.id
), switched_off as (
    update bridge.webhooks w
    set is_active = false
    from webhook
    where w.id = webhook.id and webhook.is_large and w.is_active
), emptied as (
    delete from bridge.delivery_queue
    where id = any (array(
        select q.id
        from webhook
        cross join lateral (
            select id, webhook_id from bridge.delivery_queue
            where webhook_id = webhook.id
            order by webhook_id, id
            limit 5000) as q
        where webhook.is_large))
)
select webhook.id, not webhook.is_large as is_deleted
from webhook
where webhook.is_large or exists (select from deleted);
