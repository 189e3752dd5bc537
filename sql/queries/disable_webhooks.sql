-- Disables webhooks and announces it.
-- $1, $2 arrays: webhook, reason
with disabled as (
    update bridge.webhooks w
    set is_active = false, disabled_reason = given.reason
    from unnest($1::bigint[], $2::text[]) as given(webhook_id, reason)
    where w.id = given.webhook_id and w.is_active
    returning w.id, w.name, w.event_type, w.disabled_reason
), announced as (
    insert into bridge.outbox (event_type, payload)
    select 'webhook.disabled',
           jsonb_build_object('webhook_id', id, 'name', name, 'event_type', event_type, 'reason', disabled_reason)
    from disabled
)
select id, disabled_reason from disabled;
