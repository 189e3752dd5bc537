-- What the role of this session lacks to run a bridge. Without a schema: what it lacks to make one.
with ours as (
    select n.oid, r.rolname as owner
    from pg_catalog.pg_namespace n
    join pg_catalog.pg_roles r on r.oid = n.nspowner
    where n.nspname = 'bridge'
), relations as (
    select c.oid, c.relname, c.relkind, c.relispartition, c.relowner
    from pg_catalog.pg_class c
    join ours on ours.oid = c.relnamespace
), lacking as (
    select 1 as rank, format('create on database %I', current_database()) as lacks
    where not exists (select from ours)
      and not has_database_privilege(current_database(), 'create')
    union all
    select 2, privilege || ' on schema bridge'
    from ours, unnest(array['usage', 'create']) as privilege
    where not has_schema_privilege(ours.oid, privilege)
    union all
    -- Who makes and drops partitions owns the log, and the partitions that others have made.
    select case when r.relispartition then 4 else 3 end, format('ownership of bridge.%I', r.relname)
    from relations r
    where (r.relkind = 'p' or r.relispartition and r.relkind = 'r')
      and not pg_has_role(r.relowner, 'usage')
    union all
    select 5, format('%s on bridge.%I', privilege, r.relname)
    from relations r, unnest(array['select', 'insert', 'update', 'delete']) as privilege
    where r.relkind in ('r', 'p', 'v') and not r.relispartition
      and (r.relkind <> 'v' or privilege = 'select')
      and not has_table_privilege(r.oid, privilege)
    union all
    select 6, format('%s on bridge.%I', privilege, r.relname)
    from relations r, unnest(array['usage', 'select', 'update']) as privilege
    where r.relkind = 'S' and not has_sequence_privilege(r.oid, privilege)
)
select current_user::text as role,
       (select owner::text from ours) as owner,
       array(select lacks from lacking order by rank, lacks) as lacking;
