-- Deletes up to 5,000 notes of finished transactions, and returns how many.
with old as (
    delete from bridge.transaction_notes
    where (xact, topic, key) in (
        select xact, topic, key
        from bridge.transaction_notes
        where xact < pg_snapshot_xmin(pg_current_snapshot())
        order by xact, topic, key
        limit 5000)
    returning xact
)
select count(*) as deleted from old;
