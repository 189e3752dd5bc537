-- Deletes a webhook and what is queued for it; its log entries stay until they expire.
-- No row: there is none with this id.
-- $1 its id
delete from bridge.webhooks
where id = $1
returning id;
