-- Returns the valid ones among some tokens.
-- $1 token ids
select id, name, scopes
from bridge.api_tokens
where id = any ($1)
  and revoked_at is null
  and (expires_at is null or expires_at > now());
