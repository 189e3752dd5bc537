-- Deletes old audit entries a batch at a time, so that the statement's time does not grow with the table.

create or replace function bridge.forget_audit(p_keep_days integer) returns bigint
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
    with forgotten as (
        delete from bridge.audit_log
        where id = any (array(
            select id
            from bridge.audit_log
            where changed_at < now() - make_interval(days => greatest(p_keep_days, 30))
            order by id
            limit 5000))
        returning id
    )
    select count(*) from forgotten
$$;
comment on function bridge.forget_audit(integer) is
    'Deletes up to 5,000 audit entries older than a number of days, but never those of the last 30 days. Returns how many.';
