-- Disables the webhook whose filter queue_deferred evaluates first, and announces it.
with next as (
    select event_type, event_id, from_webhook_id from bridge.deferred_events order by event_id limit 1
), disabled as (
    update bridge.webhooks
    set is_active = false,
        disabled_reason = format('its filter took too long for event %s of type %s', next.event_id, next.event_type)
    from next
    where webhooks.id = (
        select w.id
        from unnest(bridge.patterns_matching(next.event_type)) as pattern
        join bridge.webhooks w on w.event_type = pattern and w.is_active
        where w.id >= next.from_webhook_id and w.filter is not null
        order by w.id
        limit 1)
    returning webhooks.id, webhooks.name, webhooks.event_type, webhooks.disabled_reason
), announced as (
    insert into bridge.outbox (event_type, payload)
    select 'webhook.disabled',
           jsonb_build_object('webhook_id', id, 'name', name, 'event_type', event_type, 'reason', disabled_reason)
    from disabled
)
select id, disabled_reason from disabled;
