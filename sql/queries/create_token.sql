-- Creates a token, and returns it without the token itself. No row if too many are valid.
-- $1 name, $2 SHA-256 of the token, $3 its first characters, $4 scopes, $5 expiry, or null, $6 the most
-- valid tokens that there may be
insert into bridge.api_tokens (name, token_hash, prefix, scopes, expires_at)
select $1::text, $2::bytea, $3::text, $4::text[], $5::timestamptz
where (
    select count(*)
    from (
        select from bridge.api_tokens
        where revoked_at is null and coalesce(expires_at > now(), true)
        limit $6::bigint
    ) as valid) < $6
returning id, name, prefix, scopes, created_at, expires_at, last_used_at, 'valid' as state;
