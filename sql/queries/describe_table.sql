-- Describes an application's table: its kind, its inheritance children and its columns in order.
-- No row if it does not exist.
-- %(table)s schema and table, quoted
select pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) as name,
       c.relkind::text as kind,
       pg_catalog.has_table_privilege(c.oid, 'trigger') as may_create_trigger,
       array(
           select i.inhrelid::pg_catalog.regclass::text
           from pg_catalog.pg_inherits i
           where i.inhparent = c.oid and c.relkind = 'r'
           order by 1) as heirs,
       (select coalesce(
            pg_catalog.jsonb_agg(
                pg_catalog.jsonb_build_object(
                    'name', a.attname,
                    'type', case t.typtype
                        when 'e' then 'enum'
                        else pg_catalog.format_type(a.atttypid, null) end,
                    -- Virtual columns exist since PostgreSQL 18. Stored ones are computed before triggers fire.
                    'virtual_sql', case a.attgenerated
                        when 'v' then pg_catalog.pg_get_expr(d.adbin, d.adrelid) end)
                order by a.attnum),
            '[]')
        from pg_catalog.pg_attribute a
        join pg_catalog.pg_type t on t.oid = a.atttypid
        left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.oid = pg_catalog.to_regclass(%(table)s);
