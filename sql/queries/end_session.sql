-- Signs a browser out.
-- $1 what may be stored of the session
delete from bridge.console_sessions where session_hash = any ($1);
