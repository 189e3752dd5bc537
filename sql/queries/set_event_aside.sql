-- Replaces the payload of the next event of the outbox by an error, and keeps the original.
-- $1 to $3 as in drain, $4 reason
with next as (
    select least(
        (select id from bridge.outbox where id > $1 order by id limit 1),
        (select min(o.id)
         from unnest($2::bigint[], $3::bigint[]) as gap(low, high)
         cross join lateral (
             select id from bridge.outbox where id between gap.low and gap.high order by id limit 1) as o)) as id
), taken as (
    delete from bridge.outbox
    where id = (select id from next)
    returning id, event_type, payload, captured_at
), kept as (
    insert into bridge.dead_letters (outbox_id, event_type, payload, captured_at, reason)
    select id, event_type, payload, captured_at, $4 from taken
)
insert into bridge.outbox (id, event_type, payload, captured_at)
overriding system value
select id, event_type, jsonb_build_object('_capture_error', $4::text, 'dead_letter', id), captured_at from taken
returning id as outbox_id, event_type;
