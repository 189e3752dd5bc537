-- Deletes up to 5,000 rows of activity older than 25 hours, and returns how many.
with old as (
    delete from bridge.activity
    where (recorded_at, bridge) in (
        select recorded_at, bridge
        from bridge.activity
        where recorded_at < now() - interval '25 hours'
        order by recorded_at, bridge
        limit 5000)
    returning bridge
)
select count(*) as deleted from old;
