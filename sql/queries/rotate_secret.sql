-- Gives a webhook a new secret; the one that it replaces signs beside it for a day.
-- No row: there is no webhook with this id. Without a secret so far there is nothing to overlap.
-- $1 its id, $2 the new secret as it is to be stored
update bridge.webhooks w
set secret = $2,
    previous_secret = w.secret,
    previous_secret_expires_at = case when w.secret is not null then now() + interval '24 hours' end,
    updated_at = now()
where w.id = $1
returning w.previous_secret_expires_at;
