-- Why this role cannot read the bot's table of tokens, and the statement that restores it, if one can.
-- No row if it can. Reads only the catalog, so it needs no rights itself.
with wanted as (
    select name, position
    from unnest(array['id', 'name', 'token_hash', 'is_active', 'expires_at'])
        with ordinality as listed (name, position)
), bots as (
    select c.oid, n.oid as schema_id
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'public' and c.relname = 'web_api_tokens'
), present as (
    select b.oid, w.name, w.position, a.attnum
    from bots b
    cross join wanted w
    left join pg_attribute a
        on a.attrelid = b.oid and a.attname = w.name and a.attnum > 0 and not a.attisdropped
)
select reason, statement
from (
    select 'table public.web_api_tokens does not exist' as reason, null as statement
    where not exists (select from bots)
    union all
    select 'public.web_api_tokens has no column ' || string_agg(name, ', ' order by position), null
    from present
    where attnum is null
    having count(*) > 0
    union all
    select format('role %I lacks usage on schema public', current_user),
           format('grant usage on schema public to %I', current_user)
    from bots
    where not has_schema_privilege(schema_id, 'usage')
    union all
    select format('role %I lacks select on public.web_api_tokens (%s)', current_user, names),
           format('grant select (%s) on public.web_api_tokens to %I', names, current_user)
    from (
        select string_agg(name, ', ' order by position) as names
        from present
        where attnum is not null and not has_column_privilege(oid, attnum, 'select')
        having count(*) > 0
    ) as lacking
) as troubles;
