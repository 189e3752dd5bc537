-- Access: API tokens, WebSocket tickets and console sessions. Only hashes are stored.

-- --- functions that checks use

create function bridge.is_scope(p_scope text) returns boolean
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select p_scope is not null and (
        p_scope in ('events:read', 'webhooks:read', 'webhooks:write', 'admin')
        or p_scope = 'events:read:*'
        or starts_with(p_scope, 'events:read:')
           and bridge.is_event_type(regexp_replace(substr(p_scope, length('events:read:') + 1), '\.\*$', '')))
$$;
comment on function bridge.is_scope(text) is 'Returns whether a text is a scope of an API token.';

create function bridge.are_scopes(p_scopes text[]) returns boolean
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select cardinality(p_scopes) between 1 and 100
       and (select bool_and(bridge.is_scope(scope)) from unnest(p_scopes) as scope)
$$;
comment on function bridge.are_scopes(text[]) is 'Returns whether an array holds 1 to 100 scopes and nothing else.';

-- --- tables

create table bridge.api_tokens (
    id           bigint      generated always as identity,
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
    constraint api_tokens_scopes_known check (bridge.are_scopes(scopes))
);
comment on table bridge.api_tokens is 'Tokens for REST and WebSocket. A token is shown once and not stored.';
comment on column bridge.api_tokens.token_hash is
    'SHA-256 of the token. Tokens are 256 random bits, so a fast hash is safe.';
comment on column bridge.api_tokens.prefix is 'First characters of the token, so that people can recognise it.';
comment on column bridge.api_tokens.scopes is
    'What it may do: events:read; events:read:ticket.* for some event types; webhooks:read; webhooks:write, which includes webhooks:read; admin, which includes everything.';
comment on column bridge.api_tokens.last_used_at is 'Updated at most once a minute.';
comment on index bridge.api_tokens_token_hash_key is 'authenticate: the token of a request.';

create unlogged table bridge.ws_tickets (
    ticket_hash  bytea       not null,
    token_source text        not null,
    token_id     bigint,
    expires_at   timestamptz not null,
    constraint ws_tickets_pkey primary key (ticket_hash),
    constraint ws_tickets_token_source_known check (token_source in ('bridge', 'bot', 'setting'))
);
comment on table bridge.ws_tickets is
    'Single-use tickets that open a WebSocket and expire within seconds, so that tokens stay out of URLs. Unlogged: after a crash, clients request new ones.';
comment on column bridge.ws_tickets.ticket_hash is
    'SHA-256 of the ticket, which is 256 random bits. For a ticket of BRIDGE_TOKEN: HMAC of that hash, keyed with BRIDGE_TOKEN, so that changing the setting invalidates it.';
comment on column bridge.ws_tickets.token_source is
    'Where the token is that requested the ticket. bridge: api_tokens; bot: public.web_api_tokens; setting: BRIDGE_TOKEN.';
comment on column bridge.ws_tickets.token_id is
    'The token''s id in its source; its rights are looked up when the ticket is used. Null for setting.';
comment on index bridge.ws_tickets_pkey is 'use_ticket: the ticket of a client.';
create index ws_tickets_expiry on bridge.ws_tickets (expires_at);
comment on index bridge.ws_tickets_expiry is 'create_ticket: expired tickets.';

create unlogged table bridge.console_sessions (
    session_hash bytea       not null,
    token_source text        not null,
    token_id     bigint,
    created_at   timestamptz not null default now(),
    expires_at   timestamptz not null,
    constraint console_sessions_pkey primary key (session_hash),
    constraint console_sessions_token_source_known check (token_source in ('bridge', 'bot', 'setting'))
);
comment on table bridge.console_sessions is
    'Signed-in browsers of the console. A session has the rights of its token, for as long as the token is valid. Unlogged: after a crash, people sign in again.';
comment on column bridge.console_sessions.session_hash is
    'SHA-256 of the cookie, which is 256 random bits. For a session of BRIDGE_TOKEN: HMAC of that hash, keyed with BRIDGE_TOKEN, so that changing the setting invalidates it.';
comment on column bridge.console_sessions.token_source is
    'Where the token is that signed in. bridge: api_tokens; bot: public.web_api_tokens; setting: BRIDGE_TOKEN.';
comment on column bridge.console_sessions.token_id is
    'The token''s id in its source; its rights are looked up on every request. Null for setting.';
comment on index bridge.console_sessions_pkey is 'use_session: the cookie of a browser.';
create index console_sessions_expiry on bridge.console_sessions (expires_at);
comment on index bridge.console_sessions_expiry is 'create_session: expired sessions.';
