-- Creates the partitions of every log, from yesterday on.
-- $1 number of days
select bridge.create_partitions((now() at time zone 'UTC')::date - 1, $1) as created;
