-- A page of the log for who polls it, in order, and what the log has, all of one snapshot. Without
-- events there is one row, with nulls.
-- available_from is the lowest id of the log, null when it is empty; last_event_id the highest or, when
-- it is empty, the last that was given out.
-- next_since is where the next page begins: the last id of this one or, if all of what was looked at is
-- on it, the last that was looked at. Null: there is nothing more up to $2.
-- Types are looked at for $5 events at most, so that a pattern that nothing matches does not read a
-- month of the log. Payloads are cut twice: what is stored may be compressed to a hundredth of the text,
-- but tells without being read how many are worth it.
-- $1 the last id that is known; $2 the last that is wanted; $3 patterns of types, or null for any
-- $4 how many events at most; $5 how many to look at; $6 how many bytes of payload at most, but one
-- event in any case
with looked_at as materialized (
    select id, recorded_at, event_type, pg_column_size(payload) as bytes,
           row_number() over (order by id) as place
    -- And one more, which only tells that there is more.
    from (select * from bridge.events where id > $1 and id <= $2 order by id limit $5 + 1) as read
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
    -- Both columns, so that each is sought in one partition.
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
    select (select min(id) from bridge.events) as available_from,
           coalesce((select max(id) from bridge.events), given_out.id) as last_event_id,
           case when (select count(*) from wanted) > (select count(*) from page)
                then (select max(id) from page)
                when (select count(*) from looked_at) > $5
                then (select id from looked_at where place = $5)
           end as next_since
    from (select last_value - (not is_called)::integer as id from bridge.event_id) as given_out
)
select b.available_from, b.last_event_id, b.next_since, p.id, p.event_type, p.payload, p.occurred_at
from bounds b
left join page p on true
order by p.id;
