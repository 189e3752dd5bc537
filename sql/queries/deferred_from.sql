-- The lowest webhook to which deliveries are deferred; null if none are.
select min(from_webhook_id) as webhook_id from bridge.deferred_events;
