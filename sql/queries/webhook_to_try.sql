-- The parts of a test request. No row if the webhook does not exist.
-- $1 webhook id
select id, url, secret, timeout_seconds,
       case when previous_secret_expires_at > now() then previous_secret end as previous_secret
from bridge.webhooks
where id = $1;
