-- Sends a notification to the bridge itself, which listens on another connection.
-- $1 the bridge's own channel
select pg_notify($1, '');
