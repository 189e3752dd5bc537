-- A page of a webhook's deliveries, newest first. Every row carries the total and the id after which the
-- next page starts (null on the last page).
-- No row if the webhook does not exist. One row without an id if the page is empty.
-- The largest payloads are omitted if they do not fit. They are measured twice: by their stored size, which is known
-- without reading them but can be a hundredth of the text when compressed, and then by the size of the
-- text.
-- $1 webhook id, $2 status, or null for any, $3 rows to skip, plus page size, plus one, $4 rows to skip,
-- $5 page size, $6 only ids below this one, or null, $7 most bytes of payload
with matching as materialized (
    select (select count(*) from bridge.delivery_queue
            where webhook_id = $1 and coalesce($2::text, 'pending') = 'pending')
         + case when coalesce($2, 'success') = 'success' then w.delivered_count else 0 end
         + case when coalesce($2, 'failed') = 'failed' then w.failed_count else 0 end as total
    from bridge.webhooks w
    where w.id = $1
), newest as materialized (
    select id
    from bridge.newest_deliveries($1, $2, 0, coalesce($6::bigint, 9223372036854775807), $3)
), page as materialized (
    select id from newest order by id desc limit $5 offset $4
), found as materialized (
    select *
    from bridge.webhook_deliveries
    where webhook_id = $1 and id = any (array(select id from page))
), stored as materialized (
    select id, payload, sum(pg_column_size(payload)) over (order by pg_column_size(payload), id) as bytes_so_far
    from found
), texts as materialized (
    select id, octet_length(payload::text) as bytes
    from stored
    where bytes_so_far <= $7
), fitting as materialized (
    select id
    from (select id, sum(bytes) over (order by bytes, id) as bytes_so_far from texts) as measured
    where bytes_so_far <= $7
)
select matching.total,
       case when (select count(*) from newest) - $4 > $5 then (select min(id) from page) end
           as next_before_id,
       d.id, d.webhook_id, d.event_type, case when f.id is not null then d.payload end as payload,
       d.payload is not null and f.id is null as payload_omitted,
       d.response_status, d.response_body, d.status,
       d.error_message, d.attempt_number, d.created_at, d.delivered_at, d.next_retry_at
from matching
left join found d on true
left join fitting f on f.id = d.id
order by d.id desc;
