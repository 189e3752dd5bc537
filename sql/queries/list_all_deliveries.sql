-- Deliveries of all webhooks or of one, newest first. Every row brings how many were looked at, and
-- the last of these; one row without an id: none of them is wanted.
-- Like list_deliveries it searches the queue and the logs one by one, by the index that gives their
-- ids in order: each is there for any webhook and for one, and half of them are never begun. No index
-- has the types, so only the newest are looked at for one.
-- $1 webhook or null for any, $2 status or null for any, $3 only ids below this one, $4 only from this
-- id on, $5 type, such as ticket.created or ticket.*, or null for any, $6 how many to look at, $7 how
-- many to show
with looked_at as materialized (
    select *
    from (
        (select id, webhook_id, event_id, event_type, 'pending' as status, attempt_number, response_status,
                error_message, created_at, next_attempt_at
         from bridge.delivery_queue
         where $1::bigint is null and coalesce($2::text, 'pending') = 'pending'
           and id < $3::bigint and id >= $4::bigint
         order by id desc limit $6)
        union all
        (select id, webhook_id, event_id, event_type, 'pending', attempt_number, response_status,
                error_message, created_at, next_attempt_at
         from bridge.delivery_queue
         where webhook_id = $1 and coalesce($2, 'pending') = 'pending' and id < $3 and id >= $4
         order by id desc limit $6)
        union all
        (select id, webhook_id, event_id, event_type, status, attempt_number, response_status,
                error_message, created_at, null
         from bridge.delivery_log_success
         where $1 is null and coalesce($2, 'success') = 'success' and id < $3 and id >= $4
         order by id desc limit $6)
        union all
        (select id, webhook_id, event_id, event_type, status, attempt_number, response_status,
                error_message, created_at, null
         from bridge.delivery_log_success
         where webhook_id = $1 and coalesce($2, 'success') = 'success' and id < $3 and id >= $4
         order by id desc limit $6)
        union all
        (select id, webhook_id, event_id, event_type, status, attempt_number, response_status,
                error_message, created_at, null
         from bridge.delivery_log_failed
         where $1 is null and coalesce($2, 'failed') = 'failed' and id < $3 and id >= $4
         order by id desc limit $6)
        union all
        (select id, webhook_id, event_id, event_type, status, attempt_number, response_status,
                error_message, created_at, null
         from bridge.delivery_log_failed
         where webhook_id = $1 and coalesce($2, 'failed') = 'failed' and id < $3 and id >= $4
         order by id desc limit $6)
    ) as candidate
    order by id desc
    limit $6
), last_looked_at as (
    select count(*) over () as looked_at, id as last_id, created_at as last_created_at
    from looked_at
    order by id
    limit 1
), page as (
    select *
    from looked_at
    where case
              when $5::text is null then true
              when right($5, 2) = '.*' then starts_with(event_type, left($5, -1))
              else event_type = $5
          end
    order by id desc
    limit $7
)
select coalesce(l.looked_at, 0) as looked_at, l.last_id, l.last_created_at,
       p.id, p.webhook_id, coalesce(w.name, deleted.name) as webhook_name,
       w.id is not null as has_webhook, p.event_id, p.event_type, p.status, p.attempt_number,
       p.response_status, left(p.error_message, 300) as error_message, p.created_at,
       case when p.attempt_number > 0 then p.next_attempt_at end as next_retry_at
from (select) as always
left join last_looked_at l on true
left join page p on true
left join bridge.webhooks w on w.id = p.webhook_id
left join bridge.deleted_webhooks deleted on deleted.id = p.webhook_id
order by p.id desc;
