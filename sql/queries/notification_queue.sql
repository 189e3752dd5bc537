-- How full the queue of notifications is, and who idles inside a transaction for longest: a session
-- that listens and does that keeps the queue from being emptied.
select pg_notification_queue_usage() as usage,
       array(
           select pid
           from pg_catalog.pg_stat_activity
           where state like 'idle in transaction%' and pid <> pg_backend_pid()
           order by xact_start
           limit 3) as pids;
