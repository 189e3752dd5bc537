-- Whether schema bridge exists, and whether it is pgbridge's: then it has the table of migrations.
select to_regnamespace('bridge') is not null as has_schema,
       array(
           select attname::text
           from pg_attribute
           where attrelid = to_regclass('bridge.migrations') and attnum > 0
       ) @> array['version', 'name', 'checksum', 'applied_at'] as is_ours;
