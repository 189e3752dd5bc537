-- Finds the valid token with this hash and notes its use, at most once a minute.
-- $1 SHA-256 of the token
with known as (
    select id, name, scopes, last_used_at
    from bridge.api_tokens
    where token_hash = $1
      and revoked_at is null
      and (expires_at is null or expires_at > now())
), noted as (
    update bridge.api_tokens t
    set last_used_at = now()
    from known k
    where t.id = k.id and (k.last_used_at is null or k.last_used_at < now() - interval '1 minute')
)
select id, name, scopes from known;
