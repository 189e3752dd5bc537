-- Counts webhooks and deliveries, and the outcomes of finished ones. The counts of the log are kept per
-- webhook, deleted webhooks included.
select webhooks.total_webhooks,
       webhooks.active_webhooks,
       queued.deliveries + logged.delivered + logged.failed as total_deliveries,
       logged.delivered as successful_deliveries,
       logged.failed as failed_deliveries
from (
    select count(*) as total_webhooks, count(*) filter (where is_active) as active_webhooks
    from bridge.webhooks
) as webhooks
cross join (select count(*) as deliveries from bridge.delivery_queue) as queued
cross join (
    select coalesce(sum(delivered_count), 0)::bigint as delivered,
           coalesce(sum(failed_count), 0)::bigint as failed
    from (
        select delivered_count, failed_count from bridge.webhooks
        union all
        select delivered_count, failed_count from bridge.deleted_webhooks
    ) as counted
) as logged;
