-- A page of the audit log, newest first: at least one entry, if there is one, and only as many as fit.
-- has_more: whether there are entries after the page.
-- $1 only entries before this id, or null, $2 page size, $3 most bytes of changes
with newest as materialized (
    select id, pg_column_size(changes) as bytes, row_number() over (order by id desc) as place
    from (
        select id, changes
        from bridge.audit_log
        where $1::bigint is null or id < $1
        order by id desc
        limit $2 + 1
    ) as read
), stored as materialized (
    select id
    from (select *, sum(bytes) over (order by place) - bytes as bytes_before from newest) as measured
    where place <= $2 and bytes_before < $3
), page as materialized (
    select id
    from (
        select id, sum(octet_length(changes::text)) over (order by id desc) - octet_length(changes::text)
                   as bytes_before
        from bridge.audit_log
        where id = any (array(select id from stored))
    ) as measured
    where bytes_before < $3
)
select id, changed_at, action, target_id, target, via, actor, address, db_role, changes,
       (select count(*) from newest) > (select count(*) from page) as has_more
from bridge.audit_log
where id = any (array(select id from page))
order by id desc;
