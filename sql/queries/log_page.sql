-- A page of the log, in order, and the bounds of what the log has, all of one snapshot. Without
-- events there is one row, with nulls.
-- available_from is the lowest id of the log or, when it is empty, the id that comes next; newest_id
-- is the highest, or the last that was given out: of a log with events the sequence does not tell,
-- since after a crash, and on a standby, it is up to 32 ids ahead.
-- read_rows counts the rows before they were cut at $4 bytes. They are cut twice: what is stored may
-- be compressed to a hundredth of the text, but tells without being read how many are worth it.
-- $1 the last id that is known; $2 the last that is wanted
-- $3 how many events at most; $4 how many bytes of payload at most, but one event in any case
with stored as (
    select id, event_type, payload, occurred_at,
           count(*) over () as read_rows,
           sum(pg_column_size(payload)) over (order by id) - pg_column_size(payload) as bytes_before
    from (select * from bridge.events where id > $1 and id <= $2 order by id limit $3) as read
), texts as materialized (
    select id, event_type, payload::text as payload, occurred_at, read_rows
    from stored
    where bytes_before < $4
), page as (
    select *, sum(octet_length(payload)) over (order by id) - octet_length(payload) as bytes_before
    from texts
), bounds as (
    select coalesce((select min(id) from bridge.events), given_out.id + 1) as available_from,
           coalesce((select max(id) from bridge.events), given_out.id) as newest_id
    from (select last_value - (not is_called)::integer as id from bridge.event_id) as given_out
)
select b.available_from, b.newest_id, p.id, p.event_type, p.payload, p.occurred_at, p.read_rows
from bounds b
left join page p on p.bytes_before < $4
order by p.id;
