-- Roles whose code could run with the rights of the owner of schema bridge, because capture functions have
-- those rights: converting a value to JSON runs casts that the owner of its type made, and reading a table
-- runs functions in its policies and indexes. Roles that have the owner's rights anyway are left out.
-- %(tables)s captured tables, quoted; partitions and children count as well
-- %(view)s a view of the rules' own SQL, quoted; null: do not check what that SQL refers to
with recursive bridge as (
    select nspowner as owner_id, pg_get_userbyid(nspowner)::text as owner
    from pg_namespace
    where nspname = 'bridge'
), used as (
    -- PostgreSQL's own objects are not recorded.
    select distinct d.refclassid as class_id, d.refobjid as id
    from pg_rewrite r
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
    where r.ev_class = to_regclass(%(view)s) and d.refobjid <> r.ev_class
), relation(id, is_given) as (
    select to_regclass(name)::oid, true from unnest(%(tables)s::text[]) as given(name)
    union
    select id, id = any (select to_regclass(name) from unnest(%(tables)s::text[]) as given(name))
    from used where class_id = 'pg_class'::regclass
    union
    select i.inhrelid, false from relation r join pg_inherits i on i.inhparent = r.id
), type(id, place) as (
    select a.atttypid, format('column %%I of %%s', a.attname, a.attrelid::regclass)
    from relation r
    join pg_attribute a on a.attrelid = r.id and a.attnum > 0 and not a.attisdropped
    union
    select id, 'a rule' from used where class_id = 'pg_type'::regclass
    union
    select part.id, w.place
    from type w
    -- Each looks up one type, so that the cost does not depend on the number of the database's types.
    cross join lateral (
        select unnest(array[t.typelem, t.typbasetype]) from pg_type t where t.oid = w.id
        union all
        select a.atttypid
        from pg_type t
        join pg_attribute a on a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
        where t.oid = w.id
        union all
        select unnest(array[r.rngtypid, r.rngsubtype]) from pg_range r where w.id in (r.rngtypid, r.rngmultitypid)
    ) as part(id)
    where part.id <> 0
), called(name, owner_id, schema_id) as (
    select p.oid::regprocedure::text, p.proowner, p.pronamespace
    from used u
    join pg_proc p on u.class_id = 'pg_proc'::regclass and p.oid = u.id
    union all
    select o.oid::regoperator::text, o.oprowner, o.oprnamespace
    from used u
    join pg_operator o on u.class_id = 'pg_operator'::regclass and o.oid = u.id
    union all
    select p.oid::regprocedure::text, p.proowner, o.oprnamespace
    from used u
    join pg_operator o on u.class_id = 'pg_operator'::regclass and o.oid = u.id
    join pg_proc p on p.oid = o.oprcode
), object(rank, name, owner_id, remedy) as (
    select case when r.is_given then 1 else 2 end, format('%%s belongs to', r.id::regclass), c.relowner, null
    from relation r
    join pg_class c on c.oid = r.id
    union all
    select 3, format('%%s uses type %%s, which belongs to', min(w.place), format_type(t.oid, null)), t.typowner, null
    from type w
    join pg_type t on t.oid = w.id
    -- Arrays and multiranges have the owners of their elements.
    where t.typtype <> 'm' and not exists (select from pg_type e where e.typarray = t.oid)
    group by t.oid
    union all
    select 4, format('a rule calls %%s, which belongs to', name), owner_id, null
    from called
    union all
    -- A function of the same name with closer argument types would be called instead. A schema's owner
    -- can replace anything in it, also for the owner of its tables, and has to be trusted.
    select 5, format('a rule calls a function in schema %%I, where one can be created by', n.nspname), entry.grantee,
           format('revoke create on schema %%I from %%s', n.nspname,
                  case when entry.grantee = 0 then 'public' else entry.grantee::regrole::text end)
    from pg_namespace n
    cross join lateral aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) as entry
    where entry.privilege_type = 'CREATE' and entry.grantee <> n.nspowner
      and n.oid in (select schema_id from called)
)
select distinct o.rank, o.remedy, r.rolname::text as role, o.rank = 1 as is_captured, b.owner,
       o.name || case when o.owner_id = 0 then ' every role' else format(' role %%I', r.rolname) end as finding
from object o
cross join bridge b
left join pg_roles r on r.oid = o.owner_id
-- Not 'member': it includes roles that can neither inherit nor set the role, and a role that does not
-- inherit it could not create partitions, whose triggers need the right to execute the function.
where o.owner_id = 0 or not pg_has_role(o.owner_id, b.owner_id, 'usage')
order by o.rank, finding;
