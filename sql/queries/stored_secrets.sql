-- The stored secrets that still sign, of every webhook that has any.
select id as webhook_id,
       secret,
       case when previous_secret_expires_at > now() then previous_secret end as previous_secret
from bridge.webhooks
where secret is not null or previous_secret_expires_at > now()
order by id;
