-- One token, but for the token itself. No row: there is none with this id.
-- $1 its id
select id, name, prefix, scopes, created_at, expires_at, last_used_at,
       case
           when revoked_at is not null then 'revoked'
           when expires_at <= now() then 'expired'
           else 'valid'
       end as state
from bridge.api_tokens
where id = $1;
