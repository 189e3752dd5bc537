-- Replaces the secret of a webhook. The previous one, if any, also signs for one more day.
-- No row if the webhook does not exist.
-- $1 webhook id, $2 the new secret, in its stored form
update bridge.webhooks w
set secret = $2,
    previous_secret = w.secret,
    previous_secret_expires_at = case when w.secret is not null then now() + interval '24 hours' end,
    updated_at = now()
where w.id = $1
returning w.previous_secret_expires_at;
