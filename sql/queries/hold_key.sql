-- Shows others that this process lives, for as long as this session does.
-- $1 the process's key. Never waits: another role may want the lock.
select pg_try_advisory_lock_shared($1) as is_held;
