-- One webhook as the API shows it. No row: there is none with this id.
-- $1 its id
select id, name, url, event_type, description, is_active, disabled_reason, timeout_seconds,
       max_concurrency, filter::text as filter, rate_per_second, ordered, retry_schedule, paused_at,
       failing_since, probe_at, created_at, updated_at, last_triggered_at, success_count,
       failure_count
from bridge.webhooks
where id = $1;
