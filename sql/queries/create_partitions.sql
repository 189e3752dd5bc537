-- Creates the partitions of every log from yesterday on.
-- $1 for how many days
select bridge.create_partitions((now() at time zone 'UTC')::date - 1, $1) as created;
