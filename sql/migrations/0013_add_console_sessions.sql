-- Who is signed in to the console.

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
    'Browsers that are signed in to the console. Each may do what its token may, as long as that is valid. Unlogged: after a crash, people sign in again.';
comment on column bridge.console_sessions.session_hash is
    'SHA-256 of the cookie, which is 256 random bits; of a session of BRIDGE_TOKEN, a HMAC of that with a key made of BRIDGE_TOKEN, so that it ends with that.';
comment on column bridge.console_sessions.token_source is
    'Where the token is that somebody signed in with: bridge: api_tokens; bot: public.web_api_tokens; setting: BRIDGE_TOKEN.';
comment on column bridge.console_sessions.token_id is 'Its id there: what it allows is looked up at every request. Null: setting.';
comment on index bridge.console_sessions_pkey is 'use_session: the cookie that a browser brings.';
create index console_sessions_expiry on bridge.console_sessions (expires_at);
comment on index bridge.console_sessions_expiry is 'create_session: those that are over.';
