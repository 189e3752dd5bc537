-- A page of the log for polling clients, in order, with the bounds of the log, all from one snapshot.
-- If no event matches, one row carries only the bounds.
-- Only the complete part of the log counts: see log_bounds(), which also defines last_event_id.
-- available_from: lowest id in it; null if it is empty.
-- next_since: where the next page starts: the last id of this page or, if everything scanned is on it,
--   the last id scanned. Null: nothing more up to $2.
-- At most $5 events are scanned for their type, so that a pattern without matches does not read a whole
-- month. Payloads are limited twice: by their stored size, which is known without reading them but can
-- be a hundredth of the text when compressed, and then by the size of the text.
-- $1 last id the client has, $2 last id it wants, $3 type patterns; null: any
-- $4 most events, $5 most events to scan, $6 most bytes of payload; one event is always returned. A payload
--   that alone is larger is null; a page has at most one.
with limits as materialized (
    select missing_through, newest_id from bridge.log_bounds()
), looked_at as materialized (
    select id, recorded_at, event_type, pg_column_size(payload) as bytes,
           row_number() over (order by id) as place
    -- One extra row shows that there are more.
    from (
        select * from bridge.events
        where id > greatest($1, (select missing_through from limits))
        order by id
        limit $5 + 1
    ) as read
    -- Not within: the planner would expect few rows between two bounds that it does not know, and sort them.
    where id <= $2
), wanted_types as materialized (
    select event_type
    from (select distinct event_type from looked_at) as types
    where $3::text[] is null or bridge.patterns_matching(event_type) && $3
), wanted as materialized (
    select id, recorded_at, row_number() over (order by id) as number,
           sum(bytes) over (order by id) - bytes as bytes_before
    from looked_at
    where place <= $5 and event_type in (select event_type from wanted_types)
), texts as materialized (
    select e.id, e.event_type, e.payload::text as payload, e.occurred_at
    from wanted w
    -- By both columns, so that each lookup reads one partition.
    cross join lateral (
        select * from bridge.events where id = w.id and recorded_at = w.recorded_at
    ) as e
    where w.number <= $4 and w.bytes_before < $6
), page as materialized (
    select *
    from (
        select *, sum(octet_length(payload)) over (order by id) - octet_length(payload) as bytes_before
        from texts
    ) as measured
    where bytes_before < $6
), bounds as (
    select (select min(id) from bridge.events where id > l.missing_through) as available_from,
           l.newest_id as last_event_id,
           case when (select count(*) from wanted) > (select count(*) from page)
                then (select max(id) from page)
                when (select count(*) from looked_at) > $5
                then (select id from looked_at where place = $5)
           end as next_since
    from limits l
)
select b.available_from, b.last_event_id, b.next_since, p.id, p.event_type,
       case when octet_length(p.payload) <= $6 then p.payload end as payload, p.occurred_at
from bounds b
left join page p on true
order by p.id;
