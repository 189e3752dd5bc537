-- Revokes a token. No row if it does not exist or is already revoked.
-- $1 token id
update bridge.api_tokens set revoked_at = now() where id = $1 and revoked_at is null returning id;
