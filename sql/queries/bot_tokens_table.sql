-- Why the bot's table of tokens cannot be read safely. PostgreSQL runs functions in views, policies,
-- casts and (while planning) indexes with the rights of the reader, and the table's owner chooses them.
-- No row if the table is safe or missing, or if its owner has the rights of the owner of schema bridge.
select reason
from (
    select case
        when t.relkind <> 'r' then 'it is no plain table'
        when t.relrowsecurity then 'it has row security'
        when exists (
            select from (
                select 'pg_class'::regclass as class_id, i.indexrelid as id from pg_index i where i.indrelid = t.oid
                union all
                select 'pg_statistic_ext'::regclass, s.oid from pg_statistic_ext s where s.stxrelid = t.oid
            ) as of_table
            -- Dependencies on PostgreSQL's own objects are not recorded.
            join pg_depend d on d.classid = of_table.class_id and d.objid = of_table.id
            where d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass)
        ) then 'an index or statistics of it call a function that is not PostgreSQL''s own'
        when exists (
            select from pg_attribute a
            join pg_type y on y.oid = a.atttypid
            where a.attrelid = t.oid
              and a.attname in ('id', 'name', 'token_hash', 'is_active', 'expires_at')
              and not (y.typtype = 'b' and y.typnamespace = 'pg_catalog'::regnamespace)
        ) then 'it has a column of a type that is not PostgreSQL''s own'
    end as reason
    from pg_class t
    join pg_namespace n on n.oid = t.relnamespace
    where n.nspname = 'public'
      and t.relname = 'web_api_tokens'
      and not pg_has_role(t.relowner, (select nspowner from pg_namespace where nspname = 'bridge'), 'usage')
) as judged
where reason is not null;
