-- The session that holds install_lock. No row if it is free.
select l.pid,
       a.usename::text as role,
       a.application_name,
       a.state
from pg_catalog.pg_locks l
join pg_catalog.pg_database d on d.oid = l.database
left join pg_catalog.pg_stat_activity a on a.pid = l.pid
where d.datname = current_database()
  and l.locktype = 'advisory' and l.granted and l.objsubid = 1
  -- pg_locks shows a 64-bit key in two halves.
  and (l.classid::bigint << 32 | l.objid::bigint) = hashtext('bridge.install')
limit 1;
