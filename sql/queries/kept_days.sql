-- Days of events that have passed their retention but stay for pending deliveries: how many, the oldest,
-- and the webhooks. The oldest is null if no day is kept.
-- %(days)s days to keep
select count(distinct day) as days, min(day) as oldest,
       array(select distinct unnest(array_agg(webhook_id)) order by 1) as webhook_ids
from (
    select (event_recorded_at at time zone 'UTC')::date as day, webhook_id
    from bridge.delivery_queue
    where event_recorded_at < ((now() at time zone 'UTC')::date - %(days)s::integer)::timestamp at time zone 'UTC'
) as kept;
