-- How long the filters of some webhooks take on an event of the outbox.
-- $1 outbox id, $2 webhooks
with event as materialized (
    -- Read a large payload from its TOAST table once.
    select payload #> '{}' as payload from bridge.outbox where id = $1
)
select w.id as webhook_id, bridge.filter_milliseconds(w.filter, event.payload) as milliseconds
from event
join bridge.webhooks w on w.id = any ($2::bigint[]) and w.filter is not null;
