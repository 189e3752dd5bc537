-- Adds a token.
insert into bridge.api_tokens (name, token_hash, prefix, scopes, expires_at)
values (%(name)s, %(token_hash)s, %(prefix)s, %(scopes)s, %(expires_at)s);
