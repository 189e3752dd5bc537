-- Returns the bot's own token with this hash, if the bot considers it valid. The table is only read.
-- $1 hash of the token in hexadecimal, as the bot stores it
select id::bigint as id, name::text as name
from only public.web_api_tokens
where token_hash = $1
  and is_active
  and (expires_at is null or expires_at > now());
