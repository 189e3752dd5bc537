-- How many webhooks and deliveries there are, and how the finished deliveries ended.
select webhooks.total_webhooks,
       webhooks.active_webhooks,
       queued.deliveries + succeeded.deliveries + failed.deliveries as total_deliveries,
       succeeded.deliveries as successful_deliveries,
       failed.deliveries as failed_deliveries
from (
    select count(*) as total_webhooks, count(*) filter (where is_active) as active_webhooks
    from bridge.webhooks
) as webhooks
cross join (select count(*) as deliveries from bridge.delivery_queue) as queued
cross join (select count(*) as deliveries from bridge.delivery_log_success) as succeeded
cross join (select count(*) as deliveries from bridge.delivery_log_failed) as failed;
