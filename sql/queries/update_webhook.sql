-- Changes the columns that the object names, and returns the webhook as the API shows it.
-- No row: there is none with this id. (A trigger clears the reason when it is switched on.) Whoever
-- sets a secret, or removes it, has the one before forgotten.
-- $1 its id, $2 JSON object of columns and their new values
update bridge.webhooks w
set (name, url, event_type, secret, previous_secret, previous_secret_expires_at, description,
     is_active, timeout_seconds, max_concurrency, filter, rate_per_second, ordered, retry_schedule,
     updated_at) = (
        select n.name, n.url, n.event_type, n.secret,
               case when not $2::jsonb ? 'secret' then n.previous_secret end,
               case when not $2::jsonb ? 'secret' then n.previous_secret_expires_at end,
               n.description, n.is_active, n.timeout_seconds, n.max_concurrency, n.filter,
               n.rate_per_second, n.ordered, n.retry_schedule, now()
        from jsonb_populate_record(w, $2) as n
    )
where w.id = $1
returning w.id, w.name, w.url, w.event_type, w.description, w.is_active, w.disabled_reason,
          w.timeout_seconds, w.max_concurrency, w.filter::text as filter, w.rate_per_second,
          w.ordered, w.retry_schedule, w.paused_at, w.failing_since, w.probe_at, w.created_at,
          w.updated_at, w.last_triggered_at, w.success_count, w.failure_count;
