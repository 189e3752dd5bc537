-- Deletes up to 5,000 expired dead letters, and returns how many.
-- $1 days to keep
with forgotten as (
    delete from bridge.dead_letters
    where id = any (array(
        select id
        from bridge.dead_letters
        where recorded_at < now() - make_interval(days => $1)
        order by id
        limit 5000))
    returning id
)
select count(*) as deleted from forgotten;
