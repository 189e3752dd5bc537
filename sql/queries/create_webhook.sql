-- Adds a webhook and returns it as the API shows it.
-- $1 name, $2 url, $3 event_type, $4 secret as it is to be stored, $5 description, $6 is_active,
-- $7 timeout_seconds, $8 max_concurrency
insert into bridge.webhooks
    (name, url, event_type, secret, description, is_active, timeout_seconds, max_concurrency)
values ($1, $2, $3, $4, $5, $6, $7, $8)
returning id, name, url, event_type, description, is_active, disabled_reason, timeout_seconds,
          max_concurrency, created_at, updated_at, last_triggered_at, success_count, failure_count;
