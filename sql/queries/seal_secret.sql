-- Replaces the stored form of a secret, wherever the webhook has it: a rotation may have moved it from
-- secret to previous_secret. No row if it was replaced, or another bridge was faster.
-- $1 webhook id, $2 current stored form, $3 new stored form
update bridge.webhooks
set secret = case secret when $2 then $3 else secret end,
    previous_secret = case previous_secret when $2 then $3 else previous_secret end
where id = $1
  and $2 in (secret, previous_secret)
returning id;
