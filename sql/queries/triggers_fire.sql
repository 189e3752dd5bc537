-- Settings that keep ordinary triggers from firing in this database, and how to reset them.
select format('role %I in database %I', r.rolname, d.datname) as place,
       format('alter role %I in database %I reset session_replication_role', r.rolname, d.datname) as remedy
from pg_catalog.pg_db_role_setting s
join pg_catalog.pg_roles r on r.oid = s.setrole
join pg_catalog.pg_database d on d.oid = s.setdatabase
where 'session_replication_role=replica' = any (s.setconfig) and d.datname = current_database()
union all
select format('role %I', r.rolname), format('alter role %I reset session_replication_role', r.rolname)
from pg_catalog.pg_db_role_setting s
join pg_catalog.pg_roles r on r.oid = s.setrole
where 'session_replication_role=replica' = any (s.setconfig) and s.setdatabase = 0
union all
select format('database %I', d.datname), format('alter database %I reset session_replication_role', d.datname)
from pg_catalog.pg_db_role_setting s
join pg_catalog.pg_database d on d.oid = s.setdatabase
where 'session_replication_role=replica' = any (s.setconfig) and s.setrole = 0
  and d.datname = current_database()
union all
select 'every session', 'alter system reset session_replication_role, then select pg_reload_conf()'
from pg_catalog.pg_settings
where name = 'session_replication_role' and setting = 'replica'
  and source in ('configuration file', 'command line', 'environment variable');
