-- Notifies a bridge, which listens to that on another connection.
-- $1 the channel that is the bridge's own
select pg_notify($1, '');
