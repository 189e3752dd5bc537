-- The parts of a delivery's request, and why it is still waiting. Of secrets, only whether they exist.
-- No row if the delivery does not exist.
-- $1 delivery id
select d.webhook_id, d.event_id, d.event_type, d.is_redelivery,
       coalesce(d.leased_until > now(), false) as is_in_flight,
       e.payload,
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
left join bridge.webhooks w on w.id = d.webhook_id
left join bridge.deleted_webhooks deleted on deleted.id = d.webhook_id;
