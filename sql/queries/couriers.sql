-- The processes that deliver, and whether each has a session.
-- $1 the one that asks
with held as materialized (
    -- pg_locks shows a 64-bit key in two halves.
    select classid::bigint << 32 | objid::bigint as key
    from pg_locks
    where locktype = 'advisory' and objsubid = 1 and granted
      and database = (select oid from pg_database where datname = current_database())
)
select id, bridge, now() as now, pg_postmaster_start_time() as server_started_at,
       -- The locks are read only if there are others.
       id = $1 or id in (select key from held) as is_alive
from bridge.couriers;
