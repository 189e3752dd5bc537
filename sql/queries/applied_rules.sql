-- The rules as they were applied, and whether their triggers are still there.
select r.name, r.table_name, r.trigger_name, r.function_name, r.trigger_checksum, r.function_checksum,
       exists (
           select from pg_catalog.pg_trigger t
           where t.tgrelid = pg_catalog.to_regclass(r.table_name) and t.tgname = r.trigger_name
       ) as trigger_present,
       pg_catalog.to_regclass(r.table_name) is not null as table_present
from bridge.capture_rules r
order by r.name;
