-- The bridge that drains, or drained last, and the session in which it does: one row, with nulls for
-- what there is not. Whether a bridge drains now, its advisory lock tells (see lead).
select (
           select l.pid
           from pg_catalog.pg_locks l
           join pg_catalog.pg_database d on d.oid = l.database
           where d.datname = current_database()
             and l.locktype = 'advisory' and l.granted and l.objsubid = 1
             -- A lock's key of 64 bits is shown in two halves.
             and (l.classid::bigint << 32 | l.objid::bigint) = hashtext('bridge.drain')
           limit 1
       ) as pid,
       pg_catalog.pg_sequence_last_value('bridge.doorbell') = 0 as rings,
       r.bridge, r.mode, r.switches,
       extract(epoch from clock_timestamp() - r.switched_at)::float8 as switched_seconds,
       extract(epoch from clock_timestamp() - r.leading_since)::float8 as leading_seconds
from (select) as one_row
left join bridge.drainer r on true;
