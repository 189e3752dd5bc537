-- Whether the outbox gets on: the first event in it, since when that was captured, and who drains. It
-- waits for nobody who has locked the webhooks. (While vacuum is held back, it walks over what is dead.)
select head.id as oldest_id,
       extract(epoch from clock_timestamp() - head.captured_at)::float8 as oldest_seconds,
       bridge.leader_pid() is not null as is_drained,
       r.bridge as drainer
from (select) as one_row
left join bridge.drainer r on true
left join (
    select id, captured_at from bridge.outbox order by id limit 1
) as head on true;
