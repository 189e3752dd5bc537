-- Returns the valid token with this hash, and records its use at most once a minute.
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
    from (
        -- Waiting for a locked row would occupy a connection that other requests need.
        select t.id
        from bridge.api_tokens t
        join known k on k.id = t.id
        where k.last_used_at is null or k.last_used_at < now() - interval '1 minute'
        for update of t skip locked
    ) as due
    where t.id = due.id
)
select id, name, scopes from known;
