-- Pauses a webhook: its deliveries wait, including new ones.
-- $1 webhook id
select bridge.pause_webhook($1);
