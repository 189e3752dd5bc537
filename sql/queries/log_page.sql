-- A page of the log, in order, with the bounds of the log, all from one snapshot. If there are no events,
-- one row carries only the bounds.
-- available_from: lowest id in the log or, if it is empty, the next id.
-- newest_id: highest id or, if the log is empty, the last one assigned. (After a crash, and on a standby,
-- the sequence is up to 32 ids ahead of the log.)
-- read_rows: number of rows before the limit of $4 bytes. Payloads are limited twice: by their stored
-- size, which is known without reading them but can be a hundredth of the text when compressed, and then
-- by the size of the text.
-- $1 last known id, $2 last id wanted
-- $3 most events, $4 most bytes of payload; one event is always returned
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
