-- Ends a console session.
-- $1 possible hashes of the session
delete from bridge.console_sessions where session_hash = any ($1);
