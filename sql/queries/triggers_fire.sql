-- Settings that keep rules from capturing in this database, where they are set, and how to reset them:
-- session_replication_role keeps ordinary triggers from firing, bridge.capture switches capture off.
with setting (name, entry) as (
    values ('session_replication_role', 'session_replication_role=replica'),
           ('bridge.capture', 'bridge.capture=off')
), place as (
    select setting.name,
           case
               when r.oid is null then format('database %I', d.datname)
               when d.oid is null then format('role %I', r.rolname)
               else format('role %I in database %I', r.rolname, d.datname)
           end as place
    from setting
    join pg_catalog.pg_db_role_setting s on setting.entry = any (s.setconfig)
    left join pg_catalog.pg_roles r on r.oid = s.setrole
    left join pg_catalog.pg_database d on d.oid = s.setdatabase
    where s.setdatabase = 0 or d.datname = current_database()
)
select name, place, format('alter %s reset %s', place, name) as remedy
from place
union all
select s.name, 'every session', format('alter system reset %s, then select pg_reload_conf()', s.name)
from pg_catalog.pg_settings s
join setting on setting.entry = format('%s=%s', s.name, s.setting)
where s.source in ('configuration file', 'command line', 'environment variable');
