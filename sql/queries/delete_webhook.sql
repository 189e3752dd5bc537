-- Deletes a webhook and its pending deliveries. Its log entries stay until they expire.
-- No row if it does not exist.
-- $1 webhook id
delete from bridge.webhooks
where id = $1
returning id;
