-- One delivery with its timeline. No row if it does not exist.
-- $1 delivery id
select id, webhook_id, event_id, event_type, payload, response_status, response_body, status,
       error_message, attempt_number, created_at, delivered_at, next_retry_at,
       committed_at, captured_at, claimed_at, sent_at, acknowledged_at
from bridge.webhook_deliveries
where id = $1;
