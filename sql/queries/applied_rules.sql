-- The installed rules, and whether their triggers and functions are still as init created them.
select r.name, r.table_name, r.trigger_name, r.function_name, r.trigger_sql, r.function_sql,
       r.paused_at is not null as is_paused,
       to_regclass(r.table_name) is not null as table_present,
       t.oid is not null as trigger_present,
       coalesce(t.tgenabled in ('O', 'A'), false) as trigger_enabled,
       coalesce(pg_get_triggerdef(t.oid) = r.trigger_definition, false) as trigger_unchanged,
       coalesce(pg_get_functiondef(p.oid) = r.function_definition, false) as function_unchanged,
       nullif(pg_get_userbyid(p.proowner), pg_get_userbyid(n.nspowner))::text as other_owner
from bridge.capture_rules r
join pg_namespace n on n.nspname = 'bridge'
left join pg_trigger t on t.tgrelid = to_regclass(r.table_name) and t.tgname = r.trigger_name
left join pg_proc p on p.oid = to_regproc(r.function_name)
order by r.name;
