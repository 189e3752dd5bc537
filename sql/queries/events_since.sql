-- The log after an id, in order.
-- $1 the last id that is known; $2 how many events at most
select now() as now, id, event_type, payload, occurred_at
from bridge.events
where id > $1
order by id
limit $2;
