-- Logins whose pg_dump of this database fails because of schema bridge alone: they may read everything
-- else, but not all of it.
with object as (
    select c.oid, c.relkind, n.oid as schema_id, n.nspname = 'bridge' as is_ours
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'S') and c.relpersistence <> 't'
      and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
), login as (
    select oid, rolname
    from pg_roles
    where rolcanlogin and not rolsuper and not pg_has_role(oid, 'pg_read_all_data', 'usage')
), reads as (
    select login.oid, login.rolname, object.is_ours,
           bool_and(
               has_schema_privilege(login.oid, object.schema_id, 'usage')
               and case object.relkind
                   when 'S' then has_sequence_privilege(login.oid, object.oid, 'select')
                   else has_table_privilege(login.oid, object.oid, 'select')
               end) as is_everything
    from login
    cross join object
    group by login.oid, login.rolname, object.is_ours
)
select others.rolname::text as role
from reads as others
join reads as ours on ours.oid = others.oid and ours.is_ours
where not others.is_ours and others.is_everything and not ours.is_everything
order by role;
