-- Who may call the API and listen to the stream.

create table bridge.api_tokens (
    id           bigint generated always as identity,
    name         text        not null,
    token_hash   bytea       not null,
    prefix       text        not null,
    scopes       text[]      not null,
    created_at   timestamptz not null default now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    constraint api_tokens_pkey primary key (id),
    constraint api_tokens_token_hash_key unique (token_hash),
    constraint api_tokens_scopes_known
        check (scopes <@ array['events:read', 'webhooks:read', 'webhooks:write', 'admin'] and scopes <> '{}')
);
comment on table bridge.api_tokens is 'Tokens for REST and WebSocket. The token itself is shown once and not kept.';
comment on column bridge.api_tokens.token_hash is 'SHA-256 of the token, which is 256 random bits: there is nothing to guess.';
comment on column bridge.api_tokens.prefix is 'How the token begins, for people to recognise it by.';
comment on column bridge.api_tokens.scopes is 'What it may do; admin includes all.';
comment on column bridge.api_tokens.last_used_at is 'Written at most once a minute.';
comment on index bridge.api_tokens_token_hash_key is 'authenticate: the token that a request brings.';
