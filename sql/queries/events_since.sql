-- The log after an id, in order.
-- $1 last known id, $2 most events
-- $3 most bytes of payload, by their stored size; compressed ones count ten times, a usual ratio. One
--    event is always returned.
with stored as (
    select id, event_type, payload, occurred_at, sum(bytes) over up_to - bytes as bytes_before
    from (
        select id, event_type, payload, occurred_at,
               pg_column_size(payload) * case when pg_column_compression(payload) is null then 1 else 10 end as bytes
        from bridge.events
        where id > $1
        order by id
        limit $2
    ) as read
    window up_to as (order by id rows unbounded preceding)
)
select now() as now, id, event_type, payload, occurred_at
from stored
where bytes_before < $3
order by id;
