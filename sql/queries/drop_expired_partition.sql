-- Drops the oldest expired partition of a log and returns its name; null if none has expired.
-- $1 the log's table, $2 days to keep
select bridge.drop_expired_partition($1, $2) as dropped;
