-- Has a webhook's deliveries wait, new ones included.
-- $1 its id
select bridge.pause_webhook($1);
