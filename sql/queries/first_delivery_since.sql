-- The first id among deliveries created at a time or later. It turns a time range into an id range, for
-- which there are indexes. One bridge enqueues at a time, so ids are in order of created_at, also for
-- redeliveries. Binary search: one delivery is read per step.
-- $1 the time
with recursive search (before, from_id) as (
    -- Ids up to before are too old; ids from from_id on are not.
    select coalesce(min(id), 1) - 1, coalesce(max(id), 0) + 1
    from (
        (select id from bridge.delivery_queue order by id limit 1)
        union all (select id from bridge.delivery_queue order by id desc limit 1)
        union all (select id from bridge.delivery_log_success order by id limit 1)
        union all (select id from bridge.delivery_log_success order by id desc limit 1)
        union all (select id from bridge.delivery_log_failed order by id limit 1)
        union all (select id from bridge.delivery_log_failed order by id desc limit 1)
    ) as ends
    union all
    select case when nearest.is_before then middle.id else search.before end,
           case when nearest.is_before then search.from_id else middle.id end
    from search
    cross join lateral (select (search.before + search.from_id) / 2 as id) as middle
    cross join lateral (
        -- Also true if there is no delivery in this half: then all of it can be skipped.
        select (
            select created_at < $1::timestamptz
            from (
                (select id, created_at from bridge.delivery_queue
                 where id > search.before and id <= middle.id order by id desc limit 1)
                union all
                (select id, created_at from bridge.delivery_log_success
                 where id > search.before and id <= middle.id order by id desc limit 1)
                union all
                (select id, created_at from bridge.delivery_log_failed
                 where id > search.before and id <= middle.id order by id desc limit 1)
            ) as candidate
            order by id desc
            limit 1
        ) is not false as is_before
    ) as nearest
    where search.from_id - search.before > 1
)
select from_id
from search
where from_id - before <= 1;
