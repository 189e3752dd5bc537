-- Returns the token that somebody signed in with. No row: there is no such session, or it is over.
-- $1 what may be stored of the session
select token_source, token_id from bridge.console_sessions
where session_hash = any ($1) and expires_at > now();
