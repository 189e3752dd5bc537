-- Stores a secret as another text, wherever its webhook still has it: a rotation may have moved it
-- from secret to previous_secret meanwhile. No row: it was replaced, or another bridge was faster.
-- $1 webhook, $2 text as it was read, $3 text to store instead
update bridge.webhooks
set secret = case secret when $2 then $3 else secret end,
    previous_secret = case previous_secret when $2 then $3 else previous_secret end
where id = $1
  and $2 in (secret, previous_secret)
returning id;
