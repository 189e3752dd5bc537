-- How a webhook does. No row: there is none with this id.
-- $1 its id
select * from bridge.webhook_health where webhook_id = $1;
