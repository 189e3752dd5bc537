-- Returns the bot's own token with one of these hashes, if the bot considers it valid. The table is only read.
-- $1 hashes of the token in hexadecimal, as the bot stores them, separated by spaces
select id::bigint as id, name::text as name
from only public.web_api_tokens
where token_hash = any (string_to_array($1, ' '))
  and is_active
  and (expires_at is null or expires_at > now());
