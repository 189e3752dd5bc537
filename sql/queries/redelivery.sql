-- The last redelivery of a webhook by time range, and its progress. No row before the first.
-- $1 webhook id
select webhook_id, state, finished_since as since, finished_until as until, per_second, matched, requeued, created_at, finished_at, cancelled_at
from bridge.redeliveries
where webhook_id = $1;
