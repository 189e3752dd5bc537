-- Changes the columns that the object names, and returns the webhook as the API shows it. No row if it
-- does not exist, or signs requests and has another URL than the expected one.
-- A trigger clears disabled_reason on activation. Setting or removing the secret also removes the
-- previous one. Activation wakes the couriers, as resume_webhook does.
-- $1 webhook id, $2 JSON object of columns and their new values, $3 the expected URL, null for any
update bridge.webhooks w
set (name, url, event_type, secret, previous_secret, previous_secret_expires_at, description,
     is_active, timeout_seconds, max_concurrency, filter, rate_per_second, ordered, retry_schedule,
     updated_at) = (
        select n.name, n.url, n.event_type, n.secret,
               case when not $2::jsonb ? 'secret' then n.previous_secret end,
               case when not $2::jsonb ? 'secret' then n.previous_secret_expires_at end,
               n.description, n.is_active, n.timeout_seconds, n.max_concurrency,
               case when $2::jsonb ? 'filter' then bridge.to_filter($2::jsonb ->> 'filter') else n.filter end,
               n.rate_per_second, n.ordered, n.retry_schedule, now()
        from jsonb_populate_record(w, $2::jsonb - 'filter') as n
    )
where w.id = $1
  and ($3::text is null or w.url = $3
       or w.secret is null and coalesce(w.previous_secret_expires_at <= now(), true))
returning w.id, w.name, w.url, w.event_type, w.description, w.is_active, w.disabled_reason,
          w.timeout_seconds, w.max_concurrency, w.filter::text as filter, w.rate_per_second,
          w.ordered, w.retry_schedule, w.paused_at, w.failing_since, w.probe_at, w.created_at,
          w.updated_at, w.last_triggered_at, w.success_count, w.failure_count,
          case when ($2::jsonb ->> 'is_active')::boolean then bridge.wake_couriers()::text end as woken;
