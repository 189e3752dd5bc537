-- One delivery with its timeline. No row if it does not exist.
-- $1 delivery id, $2 most bytes of a payload; a larger one is omitted
with found as materialized (
    select d.*, coalesce(octet_length(d.payload::text) > $2, false) as payload_omitted
    from bridge.webhook_deliveries d
    where d.id = $1
)
select id, webhook_id, event_id, event_type, case when not payload_omitted then payload end as payload,
       payload_omitted, response_status, response_body, status,
       error_message, attempt_number, created_at, delivered_at, next_retry_at,
       committed_at, captured_at, claimed_at, sent_at, acknowledged_at
from found;
