-- Sessions whose locks block the installer, longest transaction first.
-- %(table)s schema and table, quoted; null: every table of schema bridge
-- %(readers)s whether readers block it as well
select a.pid,
       a.usename::text as role,
       a.application_name,
       a.state,
       coalesce(extract(epoch from clock_timestamp() - a.xact_start), 0)::float8 as seconds
from pg_locks l
join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'relation'
  and l.database = (select oid from pg_database where datname = current_database())
  and (l.relation = to_regclass(%(table)s)
       or %(table)s::text is null
          and l.relation in (select oid from pg_class where relnamespace = to_regnamespace('bridge')))
  and l.granted
  and l.pid <> pg_backend_pid()
  and (%(readers)s or l.mode not in ('AccessShareLock', 'RowShareLock'))
group by a.pid, a.usename, a.application_name, a.state, a.xact_start
order by seconds desc;
