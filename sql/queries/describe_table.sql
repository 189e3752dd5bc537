-- The columns of a table, and those of its primary key. No row: there is no such table.
-- %(table)s schema and table, as SQL writes them
select array(
           select a.attname::text
           from pg_catalog.pg_attribute a
           where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
           order by a.attnum) as columns,
       array(
           select a.attname::text
           from pg_catalog.pg_index i
           join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
           where i.indrelid = c.oid and i.indisprimary
           order by a.attnum) as key_columns
from pg_catalog.pg_class c
where c.oid = pg_catalog.to_regclass(%(table)s) and c.relkind in ('r', 'p');
