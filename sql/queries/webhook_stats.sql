-- Counts webhooks and deliveries, and the outcomes of finished ones. The counts of the log are kept per
-- webhook, deleted webhooks included. A queue of more than 10,000 deliveries is counted as the last vacuum
-- or analyze found it.
select webhooks.total_webhooks,
       webhooks.active_webhooks,
       queued.deliveries + logged.delivered + logged.failed as total_deliveries,
       logged.delivered as successful_deliveries,
       logged.failed as failed_deliveries
from (
    select count(*) as total_webhooks, count(*) filter (where is_active) as active_webhooks
    from bridge.webhooks
) as webhooks
cross join (
    select case
               when counted.count <= 10000 then counted.count
               else greatest(counted.count, (
                   select reltuples::bigint from pg_catalog.pg_class where oid = 'bridge.delivery_queue'::regclass))
           end as deliveries
    from (select count(*) as count from (select from bridge.delivery_queue limit 10001) as first_ones) as counted
) as queued
cross join (
    select coalesce(sum(delivered_count), 0)::bigint as delivered,
           coalesce(sum(failed_count), 0)::bigint as failed
    from (
        select delivered_count, failed_count from bridge.webhooks
        union all
        select delivered_count, failed_count from bridge.deleted_webhooks
    ) as counted
) as logged;
