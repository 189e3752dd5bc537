-- The parts of a delivery's request, and why it is still waiting. Of secrets, only whether they exist.
-- No row if the delivery does not exist. Of a large payload, only its start.
-- $1 delivery id, $2 most bytes of a payload, $3 characters of a larger one
select d.webhook_id, d.event_id, d.event_type, d.is_redelivery,
       coalesce(d.leased_until > now(), false) as is_in_flight,
       e.id is not null as has_event,
       case when not size.is_large then e.payload end as payload,
       case when size.is_large then left(e.payload::text, $3) end as payload_start,
       coalesce(w.name, deleted.name) as webhook_name,
       coalesce(w.url, deleted.url) as url,
       w.id is not null as has_webhook,
       coalesce(w.is_active, false) as is_active,
       w.paused_at,
       w.probe_at,
       w.secret is not null as is_signed,
       coalesce(w.previous_secret_expires_at > now(), false) as is_signed_twice
from (
    select webhook_id, event_id, event_recorded_at, event_type, is_redelivery, leased_until
    from bridge.delivery_queue
    where id = $1
    union all
    select webhook_id, event_id, event_recorded_at, event_type, false, null
    from bridge.delivery_log
    where id = $1
) as d
left join bridge.events e on e.id = d.event_id and e.recorded_at = d.event_recorded_at
cross join lateral (select coalesce(octet_length(e.payload::text) > $2, false) as is_large offset 0) as size
left join bridge.webhooks w on w.id = d.webhook_id
left join bridge.deleted_webhooks deleted on deleted.id = d.webhook_id;
