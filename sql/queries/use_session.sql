-- Returns the token of a console session. No row if the session is unknown or expired.
-- $1 possible hashes of the session
select token_source, token_id from bridge.console_sessions
where session_hash = any ($1) and expires_at > now();
