-- Moves the next event of the outbox to the dead letters, and puts one with the error in its place.
-- $1 to $3 as in drain, $4 reason
select next.id as outbox_id, aside.dead_letter_id, aside.event_type
from (
    select least(
        (select id from bridge.outbox where id > $1 order by id limit 1),
        (select min(o.id)
         from unnest($2::bigint[], $3::bigint[]) as gap(low, high)
         cross join lateral (
             select id from bridge.outbox where id between gap.low and gap.high order by id limit 1) as o)) as id
) as next
cross join lateral bridge.set_event_aside(next.id, $4) as aside
where next.id is not null;
