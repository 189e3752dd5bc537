-- A page of dead letters, newest first, or one of them.
-- $1 only this one, or null, $2 only those before this id, or null, $3 page size, $4 most bytes of payload
select id, event_type, webhook_id, event_id, captured_at, recorded_at, reason, payload, payload_omitted
from bridge.dead_letters_page($1, $2, $3, $4);
