-- Whether the outbox is being drained: its first event, that event's age, and the drainer. Takes no lock
-- that a locked webhook could block. (While vacuum is held back, it scans dead rows.)
select head.id as oldest_id,
       extract(epoch from clock_timestamp() - head.captured_at)::float8 as oldest_seconds,
       bridge.leader_pid() is not null as is_drained,
       r.bridge as drainer
from (select) as one_row
left join bridge.drainer r on true
left join (
    select id, captured_at from bridge.outbox order by id limit 1
) as head on true;
