-- The log after an id, in order.
-- $1 last known id, $2 most events
select now() as now, id, event_type, payload, occurred_at
from bridge.events
where id > $1
order by id
limit $2;
