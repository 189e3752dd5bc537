-- The rules that capture nothing although they are not paused, why, and how many rules are not paused.
-- A rule captures if an enabled trigger on its table calls its function, or after the table was renamed, a
-- trigger on any table. Reads the catalog as of one moment: rules that init replaces just now are seen before
-- or after that. to_regclass() and the like would see later moments, and fail for roles that may not use a
-- schema.
with rule as materialized (
    select name, table_name, function_sql,
           -- It fails for text that is no name, which only a change by hand can have left there.
           case when table_name ~ is_name then parse_ident(table_name) end as table_parts,
           case when function_name ~ is_name then parse_ident(function_name) end as function_parts
    from bridge.capture_rules
    cross join (values ('^("([^"]|"")+"|[[:alpha:]_][[:alnum:]_$]*)(\.("([^"]|"")+"|[[:alpha:]_][[:alnum:]_$]*))?$')) as pattern(is_name)
    where paused_at is null
), setting as (
    -- Of the whole database; doctor also names settings of single roles.
    select coalesce(bool_or('bridge.capture=off' = any (setconfig)), false) as is_off,
           coalesce(bool_or('session_replication_role=replica' = any (setconfig)), false) as is_replica
    from pg_catalog.pg_db_role_setting
    where setrole = 0
      and setdatabase in (0, (select oid from pg_catalog.pg_database where datname = current_database()))
), found as (
    select r.name, r.table_name,
           case
               when count(t.oid) = 0 and c.oid is null then 'table_missing'
               when count(t.oid) = 0 then 'trigger_missing'
               when not bool_or(t.tgenabled in ('O', 'A')) then 'trigger_disabled'
               -- The delimiters around it make sure that this is the whole body.
               when strpos(r.function_sql, '$' || p.prosrc || '$') = 0 then 'function_replaced'
               when s.is_off or s.is_replica and not bool_or(t.tgenabled = 'A') then 'turned_off'
           end as reason
    from rule r
    cross join setting s
    left join pg_catalog.pg_namespace table_schema on table_schema.nspname = r.table_parts[1]
    left join pg_catalog.pg_class c on c.relnamespace = table_schema.oid and c.relname = r.table_parts[2]
    left join pg_catalog.pg_namespace function_schema on function_schema.nspname = r.function_parts[1]
    left join pg_catalog.pg_proc p
        on p.pronamespace = function_schema.oid and p.proname = r.function_parts[2] and p.pronargs = 0
    -- Clones of a trigger on partitions follow their parent.
    left join pg_catalog.pg_trigger t
        on t.tgfoid = p.oid and not t.tgisinternal and t.tgparentid = 0
        and (c.oid is null or t.tgrelid = c.oid)
    group by r.name, r.table_name, r.function_sql, c.oid, p.prosrc, s.is_off, s.is_replica
)
select name, table_name, reason, (select count(*) from rule) as active_count
from found
where reason is not null
order by name;
