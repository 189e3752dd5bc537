-- Triggers on the application's tables that call a capture function of no installed rule.
select format('bridge.%I', p.proname) as function_name,
       format('%I on %s', t.tgname, t.tgrelid::regclass) as name,
       t.tgrelid::regclass::text as table_name
from pg_trigger t
join pg_proc p on p.oid = t.tgfoid
join pg_class c on c.oid = t.tgrelid
where p.pronamespace = to_regnamespace('bridge') and t.tgparentid = 0 and c.relnamespace <> p.pronamespace
  and p.proname ~ '^capture_'
  and p.oid not in (
      select to_regproc(r.function_name) from bridge.capture_rules r where to_regproc(r.function_name) is not null)
order by function_name, name;
