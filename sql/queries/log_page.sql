-- A page of the log, in order, with the bounds of the log, all from one snapshot. If there are no events,
-- one row carries only the bounds.
-- Only the complete part of the log counts: see log_bounds(), which also defines newest_id.
-- available_from: lowest id in it or, if it is empty, the next id.
-- read_rows: number of rows before the limit of $4 bytes. Payloads are limited twice: by their stored
-- size, which is known without reading them but can be a hundredth of the text when compressed, and then
-- by the size of the text.
-- $1 last known id, $2 last id wanted
-- $3 most events, $4 most bytes of payload; one event is always returned
with limits as materialized (
    select missing_through, newest_id from bridge.log_bounds()
), stored as (
    select id, event_type, payload, occurred_at,
           count(*) over () as read_rows,
           sum(pg_column_size(payload)) over (order by id) - pg_column_size(payload) as bytes_before
    from (
        select * from bridge.events
        where id > greatest($1, (select missing_through from limits))
        order by id
        limit $3
    ) as read
    -- Not within: the planner would expect few rows between two bounds that it does not know, and sort them.
    where id <= $2
), texts as materialized (
    select id, event_type, payload::text as payload, occurred_at, read_rows
    from stored
    where bytes_before < $4
), page as (
    select *, sum(octet_length(payload)) over (order by id) - octet_length(payload) as bytes_before
    from texts
), bounds as (
    select coalesce((select min(id) from bridge.events where id > l.missing_through), l.newest_id + 1) as available_from,
           l.newest_id
    from limits l
)
select b.available_from, b.newest_id, p.id, p.event_type, p.payload, p.occurred_at, p.read_rows
from bounds b
left join page p on p.bytes_before < $4
order by p.id;
