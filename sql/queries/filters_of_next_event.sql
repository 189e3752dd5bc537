-- The next event of the outbox and the webhooks with a filter that it goes to.
-- $1 to $3 as in drain
with next as (
    select least(
        (select id from bridge.outbox where id > $1 order by id limit 1),
        (select min(o.id)
         from unnest($2::bigint[], $3::bigint[]) as gap(low, high)
         cross join lateral (
             select id from bridge.outbox where id between gap.low and gap.high order by id limit 1) as o)) as id
)
select o.id as outbox_id, o.event_type, w.id as webhook_id
from next
join bridge.outbox o on o.id = next.id
cross join lateral unnest(bridge.patterns_matching(o.event_type)) as pattern
join bridge.webhooks w on w.event_type = pattern and w.is_active and w.filter is not null
order by w.id;
