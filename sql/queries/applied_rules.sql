-- The installed rules, and whether their triggers and functions are still as init created them. strays: other
-- triggers that call a rule's function, since a trigger moves with its table when that is renamed.
with callers as (
    select t.oid, t.tgfoid, format('%I on %s', t.tgname, t.tgrelid::regclass) as name, t.tgrelid::regclass::text as table_name
    from pg_trigger t
    join pg_proc p on p.oid = t.tgfoid
    -- A partition's triggers come and go with those of its parent.
    where p.pronamespace = to_regnamespace('bridge') and t.tgparentid = 0
)
select r.name, r.table_name, r.trigger_name, r.function_name, r.trigger_sql, r.function_sql,
       r.paused_at is not null as is_paused,
       to_regclass(r.table_name) is not null as table_present,
       t.oid is not null as trigger_present,
       coalesce(t.tgenabled in ('O', 'A'), false) as trigger_enabled,
       coalesce(pg_get_triggerdef(t.oid) = r.trigger_definition, false) as trigger_unchanged,
       coalesce(pg_get_functiondef(p.oid) = r.function_definition, false) as function_unchanged,
       array(select c.name from callers c where c.tgfoid = p.oid and c.oid is distinct from t.oid order by 1) as strays,
       array(select c.table_name from callers c where c.tgfoid = p.oid and c.oid is distinct from t.oid order by 1) as stray_tables,
       nullif(pg_get_userbyid(p.proowner), pg_get_userbyid(n.nspowner))::text as other_owner
from bridge.capture_rules r
join pg_namespace n on n.nspname = 'bridge'
left join pg_trigger t on t.tgrelid = to_regclass(r.table_name) and t.tgname = r.trigger_name
left join pg_proc p on p.oid = to_regproc(r.function_name)
order by r.name;
