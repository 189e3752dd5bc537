-- The columns of a table. No row: there is no such table.
-- %(table)s schema and table, as SQL writes them
select array(
           select a.attname::text
           from pg_catalog.pg_attribute a
           where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
           order by a.attnum) as columns
from pg_catalog.pg_class c
where c.oid = pg_catalog.to_regclass(%(table)s) and c.relkind in ('r', 'p');
