-- Revokes a token. No row: there is none with this id that is not revoked yet.
-- $1 its id
update bridge.api_tokens set revoked_at = now() where id = $1 and revoked_at is null returning id;
