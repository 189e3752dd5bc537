-- A page of deliveries for the console, newest first. Every row carries how many deliveries were scanned,
-- and the last one scanned. One row without an id if none matches. No index has event types, so with a
-- type only the newest deliveries are scanned.
-- $1 webhook id, or null for any, $2 status, or null for any, $3 only ids below this one, $4 only ids
-- from this one on, $5 type, such as ticket.created or ticket.*, or null for any, $6 most deliveries to
-- scan, $7 page size
with scanned as materialized (
    select * from bridge.newest_deliveries($1, $2, $4, $3, $6)
), last_scanned as (
    select count(*) over () as scanned_count, id as last_id, created_at as last_created_at
    from scanned
    order by id
    limit 1
), page as (
    select *
    from scanned
    where case
              when $5::text is null then true
              when right($5, 2) = '.*' then starts_with(event_type, left($5, -1))
              else event_type = $5
          end
    order by id desc
    limit $7
)
select coalesce(l.scanned_count, 0) as scanned_count, l.last_id, l.last_created_at,
       p.id, p.webhook_id, coalesce(w.name, deleted.name) as webhook_name,
       w.id is not null as has_webhook, p.event_id, p.event_type, p.status, p.attempt_number,
       p.response_status, left(p.error_message, 300) as error_message, p.created_at,
       case when p.attempt_number > 0 then p.next_attempt_at end as next_retry_at
from (select) as always
left join last_scanned l on true
left join page p on true
left join bridge.webhooks w on w.id = p.webhook_id
left join bridge.deleted_webhooks deleted on deleted.id = p.webhook_id
order by p.id desc;
