-- The rules as they were applied, and whether what was made of them still stands as it was made.
-- By way of JSON, so that it reads the table of an older version, too: its rules are all to be made
-- anew, and their triggers are to go.
select r.name, r.table_name, r.trigger_name, r.function_name,
       coalesce(r.known ->> 'trigger_sql', '') as trigger_sql,
       coalesce(r.known ->> 'function_sql', '') as function_sql,
       r.known ->> 'paused_at' is not null as is_paused,
       to_regclass(r.table_name) is not null as table_present,
       t.oid is not null as trigger_present,
       coalesce(t.tgenabled in ('O', 'A'), false) as trigger_enabled,
       coalesce(pg_get_triggerdef(t.oid) = r.known ->> 'trigger_definition', false) as trigger_unchanged,
       coalesce(pg_get_functiondef(p.oid) = r.known ->> 'function_definition', false) as function_unchanged
from (select *, to_jsonb(rule) as known from bridge.capture_rules as rule) as r
left join pg_trigger t on t.tgrelid = to_regclass(r.table_name) and t.tgname = r.trigger_name
left join pg_proc p on p.oid = to_regproc(r.function_name)
order by r.name;
