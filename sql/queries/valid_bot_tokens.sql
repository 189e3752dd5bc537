-- Returns the valid ones among some of the bot's own tokens.
-- $1 token ids
select id::bigint as id, name::text as name
from only public.web_api_tokens
where id = any ($1::bigint[])
  and is_active
  and (expires_at is null or expires_at > now());
