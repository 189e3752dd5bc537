-- Adds a token, and returns it as the API shows it.
-- $1 name, $2 SHA-256 of the token, $3 how it begins, $4 scopes, $5 until when it is valid, or null
insert into bridge.api_tokens (name, token_hash, prefix, scopes, expires_at)
values ($1, $2, $3, $4, $5)
returning id, name, prefix, scopes, created_at, expires_at, last_used_at, 'valid' as state;
