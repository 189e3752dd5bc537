-- For today and the following days: which partitions the logs are missing, and whether they have none at
-- all, as before the first run.
-- %(days)s number of days
select day.ahead,
       array(
           select named.partition
           from bridge.partitioned_logs l
           cross join lateral (
               select l.parent || '_p' || to_char(day.date, 'YYYYMMDD') as partition
           ) as named
           where not exists (
               select
               from pg_catalog.pg_inherits i
               join pg_catalog.pg_class c on c.oid = i.inhrelid
               where i.inhparent = to_regclass('bridge.' || quote_ident(l.parent))
                 and c.relname = named.partition)
           order by named.partition) as missing,
       not exists (
           select
           from bridge.partitioned_logs l
           join pg_catalog.pg_inherits i on i.inhparent = to_regclass('bridge.' || quote_ident(l.parent))
       ) as never_made
from (
    select ahead, (now() at time zone 'UTC')::date + ahead as date
    from generate_series(0, %(days)s - 1) as ahead
) as day
order by day.ahead;
