-- Dead rows of the queues that vacuum has not removed yet.
select c.relname::text as queue, pg_stat_get_dead_tuples(c.oid) as dead_rows
from pg_catalog.pg_class c
where c.oid in ('bridge.outbox'::regclass, 'bridge.delivery_queue'::regclass)
order by c.relname;
