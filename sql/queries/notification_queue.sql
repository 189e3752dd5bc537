-- How full the notification queue is, and which sessions have been idle in a transaction for longest. A
-- listening session that is idle in a transaction keeps the queue from being emptied.
select pg_notification_queue_usage() as usage,
       array(
           select pid
           from pg_catalog.pg_stat_activity
           where state like 'idle in transaction%' and pid <> pg_backend_pid()
           order by xact_start
           limit 3) as pids;
