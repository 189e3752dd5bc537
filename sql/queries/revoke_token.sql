-- Revokes a token that is not revoked yet.
update bridge.api_tokens set revoked_at = now() where id = %(id)s and revoked_at is null;
