-- The bridge that drains, or drained last, and the session in which it does: one row, with nulls for
-- what there is not.
select bridge.leader_pid() as pid,
       pg_catalog.pg_sequence_last_value('bridge.doorbell') = 0 as rings,
       r.bridge, r.mode, r.switches,
       extract(epoch from clock_timestamp() - r.switched_at)::float8 as switched_seconds,
       extract(epoch from clock_timestamp() - r.leading_since)::float8 as leading_seconds
from (select) as one_row
left join bridge.drainer r on true;
