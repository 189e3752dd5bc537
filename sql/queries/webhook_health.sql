-- How a webhook is doing. No row if it does not exist.
-- $1 webhook id
select * from bridge.webhook_health where webhook_id = $1;
