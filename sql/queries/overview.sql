-- The current state of everything, in one row. Large sets are counted up to 10,001, in index order, so
-- the cost does not depend on the length of the queues. (While vacuum is held back, both queues are
-- scanned from the start, over every dead row. Callers that poll must pause in between.)
with webhook as materialized (
    select id, state from bridge.webhooks
), lane as (
    select w.id as webhook_id, kind.is_redelivery
    from webhook w
    cross join (values (false), (true)) as kind(is_redelivery)
    where w.state = 'delivering'
)
select now() as at,
       outbox.count as outbox_count,
       outbox.oldest_seconds as outbox_oldest_seconds,
       deferred.count as deferred_count,
       deferred.oldest_seconds as deferred_oldest_seconds,
       dead_letters.count as dead_letters_count,
       dead_letters.oldest_seconds as dead_letters_oldest_seconds,
       (select count(*) from (select from bridge.delivery_queue limit 10001) as counted) as pending_count,
       (select count(*) from (
           select from lane
           cross join lateral (
               select from bridge.delivery_queue q
               where q.webhook_id = lane.webhook_id
                 and q.is_redelivery = lane.is_redelivery
                 and q.next_attempt_at <= now()
                 and (q.leased_until is null or q.leased_until <= now())
               order by q.next_attempt_at, q.id
               limit 10001) as each
           limit 10001) as counted) as due_count,
       (select count(*) from (
           select from lane
           cross join lateral (
               select from bridge.delivery_queue q
               where q.webhook_id = lane.webhook_id
                 and q.is_redelivery = lane.is_redelivery
                 and q.next_attempt_at > now()
               order by q.next_attempt_at, q.id
               limit 10001) as each
           limit 10001) as counted) as scheduled_count,
       (select count(*) from (
           select from webhook w
           cross join lateral (
               select from bridge.delivery_queue q
               where q.webhook_id = w.id
                 and (q.leased_until is null or q.leased_until <= now())
               order by q.id
               limit 10001) as each
           where w.state <> 'delivering'
           limit 10001) as counted) as held_count,
       (select extract(epoch from now() - min(head.next_attempt_at))::float8
        from lane
        cross join lateral (
            select q.next_attempt_at from bridge.delivery_queue q
            where q.webhook_id = lane.webhook_id
              and q.is_redelivery = lane.is_redelivery
              and q.next_attempt_at <= now()
              and (q.leased_until is null or q.leased_until <= now())
            order by q.next_attempt_at, q.id
            limit 1) as head) as oldest_due_seconds,
       webhooks.*,
       bridge.leader_pid() as drainer_pid,
       r.bridge as drainer,
       extract(epoch from clock_timestamp() - r.leading_since)::float8 as leading_seconds,
       r.mode as doorbell_mode,
       pg_catalog.pg_sequence_last_value('bridge.doorbell') = 0 as rings,
       r.switches,
       extract(epoch from clock_timestamp() - r.switched_at)::float8 as switched_seconds,
       newest.id as last_event_id,
       newest.occurred_at as last_event_occurred_at
from (
    select count(*) as count,
           extract(epoch from clock_timestamp() - min(captured_at))::float8 as oldest_seconds
    from (select captured_at from bridge.outbox order by id limit 10001) as waiting
) as outbox
cross join (
    select count(*) as count,
           extract(epoch from clock_timestamp() - min(captured_at))::float8 as oldest_seconds
    from (select captured_at from bridge.deferred_events order by event_id limit 10001) as waiting
) as deferred
cross join (
    select count(*) as count,
           extract(epoch from clock_timestamp() - min(recorded_at))::float8 as oldest_seconds
    from (select recorded_at from bridge.dead_letters order by id limit 10001) as kept
) as dead_letters
cross join (
    select count(*) filter (where state = 'delivering') as webhooks_delivering,
           count(*) filter (where state = 'failing') as webhooks_failing,
           count(*) filter (where state = 'paused') as webhooks_paused,
           count(*) filter (where state = 'disabled') as webhooks_disabled,
           count(*) filter (where state = 'off') as webhooks_off
    from webhook
) as webhooks
left join bridge.drainer r on true
left join (
    select id, occurred_at from bridge.events order by id desc limit 1
) as newest on true;
