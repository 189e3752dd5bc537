-- What it takes to send a webhook a test. No row: there is none with this id.
-- $1 its id
select id, url, secret, timeout_seconds,
       case when previous_secret_expires_at > now() then previous_secret end as previous_secret
from bridge.webhooks
where id = $1;
