-- All tokens, as an operator reads them.
select id, name, prefix || '…' as begins, array_to_string(scopes, ' ') as scopes,
       to_char(created_at, 'YYYY-MM-DD HH24:MI') as created,
       to_char(expires_at, 'YYYY-MM-DD HH24:MI') as expires,
       to_char(last_used_at, 'YYYY-MM-DD HH24:MI') as last_used,
       case
           when revoked_at is not null then 'revoked'
           when expires_at <= now() then 'expired'
           else 'valid'
       end as state
from bridge.api_tokens
order by id;
