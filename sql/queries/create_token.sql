-- Creates a token, and returns it without the token itself.
-- $1 name, $2 SHA-256 of the token, $3 its first characters, $4 scopes, $5 expiry, or null
insert into bridge.api_tokens (name, token_hash, prefix, scopes, expires_at)
values ($1, $2, $3, $4, $5)
returning id, name, prefix, scopes, created_at, expires_at, last_used_at, 'valid' as state;
