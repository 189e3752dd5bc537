-- Leases due deliveries: for each webhook as many as it may have in flight, new deliveries before
-- redeliveries, oldest first. A lease outlives the longest attempt by 30 s; after that, or when its owner
-- has died, any courier may claim the delivery. Every row carries the current time; if nothing is due, one
-- row carries only that.
-- The payload is in the first row of each event. (Null: the event is no longer in the log.) is_cut: some
-- deliveries are left only because their payloads did not fit.
-- The first row also says where the next claim continues: next_* are arrays with one element per queue in
-- which deliveries may be left. Queues are: new, redelivery, or for ordered webhooks, ordered. While vacuum
-- is held back, a search from the start of a queue reads every row settled since.
-- $1 webhooks with attempts in flight here, $2 how many
-- $3 to $6 next_* of the last claim, $7 search all other queues from this time on
-- $8 whether this is a sweep, which searches all queues from their start
-- $9 most deliveries, $10 most of them for webhooks that mostly fail
-- $11 most bytes of payload; one event is always read
-- $12 deliveries that this courier still holds. If settling them takes longer than their leases, they
--     must not be sent twice.
-- $13 webhooks to leave out
-- $14 this courier, $15 owners whose leases count as expired
with recursive reserved as materialized (
    -- Claiming uses up the rate and the breaker's one probe. Only the bridge that locks the row may
    -- use them. (If another session holds the lock, the webhook is skipped this time.)
    select w.id, stored.paced_until, stored.is_probe_due
    from bridge.webhooks w
    cross join lateral (
        -- Times that are further ahead than any claim or settlement sets them are from before the
        -- server's clock was set back. Another claim may have begun a little later than this one.
        select case when w.paced_until < now() + interval '1 minute' then w.paced_until end as paced_until,
               w.probe_at <= now() or w.probe_at > now() + interval '15 minutes' as is_probe_due
    ) as stored
    where w.is_active and w.paused_at is null
      and (w.rate_per_second is not null or stored.is_probe_due)
      and w.id <> all ($13::bigint[])
    for no key update of w skip locked
), room as materialized (
    select w.id,
           w.ordered,
           w.failure_share > 0.5 as is_failing,
           breaker.is_open,
           -- Whether the open breaker lets no probe through yet.
           breaker.is_open and r.is_probe_due is not true as is_waiting,
           greatest(0, least(
               case
                   when breaker.is_open or w.ordered then 1
                   -- The more attempts fail, the fewer run at once. Recovery is gradual.
                   else ceil(w.max_concurrency * (1 - w.failure_share))
               end - coalesce(busy.in_flight, 0),
               case
                   when w.rate_per_second is null then null
                   when r.id is null then 0
                   else floor(extract(epoch from now() - pace.used_until)::double precision * w.rate_per_second + 1e-6)
               end,
               $9
           ))::integer as slots
    from bridge.webhooks w
    left join reserved r on r.id = w.id
    left join unnest($1::bigint[], $2::integer[]) as busy(webhook_id, in_flight) on busy.webhook_id = w.id
    cross join lateral (select w.probe_at is not null as is_open) as breaker
    cross join lateral (
        -- Allow a burst of one second's worth, and always at least one attempt.
        select greatest(r.paced_until, now() - make_interval(secs => greatest(1, 1 / w.rate_per_second))) as used_until
    ) as pace
    where w.is_active and w.paused_at is null and w.id <> all ($13)
), queues as materialized (
    select room.id as webhook_id, kind.name as queue, room.is_failing, room.slots,
           not room.is_waiting and (room.slots > 0 or $8) as is_searched,
           case when $8 or room.is_open then '-infinity' else left_off.at end as from_at,
           case when $8 or room.is_open then 0 else left_off.id end as from_id,
           -- The same, if it is not searched.
           left_off.at as left_off_at,
           left_off.id as left_off_id,
           known.id is not null as is_known
    from room
    join (values ('new', false), ('redelivery', false), ('ordered', true)) as kind(name, ordered)
        on kind.ordered = room.ordered
    left join unnest($3::bigint[], $4::text[], $5::timestamptz[], $6::bigint[]) as known(webhook_id, queue, at, id)
        on known.webhook_id = room.id and known.queue = kind.name
    cross join lateral (
        select coalesce(case when known.id is null then $7 else known.at end, '-infinity') as at,
               coalesce(known.id, 0) as id
    ) as left_off
    -- Without an entry, a webhook whose breaker is open is searched only for its probes.
    where not room.is_waiting or known.id is not null
), free as materialized (
    -- Candidates are not locked yet. With many webhooks there are far more of them than free slots. One
    -- more than fits shows where to continue.
    select queues.webhook_id, queues.queue, queues.is_failing, queues.slots, candidate.id, candidate.next_attempt_at,
           row_number() over (
               partition by queues.webhook_id
               order by queues.queue, candidate.next_attempt_at, candidate.id) as place
    from queues
    cross join lateral (
        select q.id, q.next_attempt_at
        from bridge.delivery_queue q
        where q.webhook_id = queues.webhook_id
          and q.is_redelivery = (queues.queue = 'redelivery')
          and q.next_attempt_at <= now()
          and (q.next_attempt_at, q.id) >= (queues.from_at, queues.from_id)
          -- Implied, but without it the planner expects more rows and might read and sort all of them.
          and q.next_attempt_at >= queues.from_at
          and (q.leased_until is null
               or (q.leased_until <= now() or q.lease_owner = any ($15::bigint[])) and q.id <> all ($12::bigint[]))
        order by q.next_attempt_at, q.id
        limit queues.slots + 1
    ) as candidate
    where queues.is_searched and queues.queue <> 'ordered'
), heads as materialized (
    -- The first delivery of an ordered webhook, and whether it can be sent now. The others wait for it.
    select queues.webhook_id, queues.is_failing, queues.slots, head.id, head.next_attempt_at,
           head.next_attempt_at <= now()
           and (head.leased_until is null
                or (head.leased_until <= now() or head.lease_owner = any ($15)) and head.id <> all ($12))
           -- A redelivery waits while a later delivery is in flight on another bridge.
           and not (head.is_redelivery and exists (
               select from bridge.delivery_queue later
               where later.webhook_id = queues.webhook_id and later.leased_until > now()
                 and (later.lease_owner = any ($15)) is not true)) as is_free
    from queues
    cross join lateral (
        select min(q.id) as id
        from bridge.delivery_queue q
        where q.webhook_id = queues.webhook_id and q.id >= queues.from_id
    ) as first
    join bridge.delivery_queue head on head.id = first.id
    where queues.is_searched and queues.queue = 'ordered'
), due as materialized (
    -- If slots are short, every webhook gets one before any webhook gets two.
    select webhook_id, queue, next_attempt_at, id, place
    from (
        select *, row_number() over (partition by is_failing order by place, next_attempt_at, id) as turn
        from (
            select webhook_id, queue, is_failing, id, next_attempt_at, place
            from free
            where place <= slots
            union all
            select webhook_id, 'ordered', is_failing, id, next_attempt_at, 1 from heads where is_free and slots > 0
        ) as candidate
    ) as queued
    where not is_failing or turn <= $10
    order by is_failing, place, next_attempt_at, id
    limit $9
), taken as materialized (
    -- From each queue as many as are due. Skip those that another bridge is claiming, and take the next.
    select share.webhook_id, candidate.*
    from (
        select distinct on (webhook_id, queue) webhook_id, queue, next_attempt_at as from_at, id as from_id,
               count(*) over (partition by webhook_id, queue) as count
        from due
        where queue <> 'ordered'
        order by webhook_id, queue, place
    ) as share
    cross join lateral (
        select q.id, q.is_redelivery, q.next_attempt_at, q.event_id, q.event_recorded_at
        from bridge.delivery_queue q
        where q.webhook_id = share.webhook_id
          and q.is_redelivery = (share.queue = 'redelivery')
          and q.next_attempt_at <= now()
          and (q.next_attempt_at, q.id) >= (share.from_at, share.from_id)
          and q.next_attempt_at >= share.from_at
          and (q.leased_until is null
               or (q.leased_until <= now() or q.lease_owner = any ($15)) and q.id <> all ($12))
        order by q.next_attempt_at, q.id
        limit share.count
        for update of q skip locked
    ) as candidate
    union all
    select due.webhook_id, head.*
    from due
    cross join lateral (
        select q.id, q.is_redelivery, q.next_attempt_at, q.event_id, q.event_recorded_at
        from bridge.delivery_queue q
        where due.queue = 'ordered'
          and q.id = due.id
          and q.next_attempt_at <= now()
          and (q.leased_until is null
               or (q.leased_until <= now() or q.lease_owner = any ($15)) and q.id <> all ($12))
        for update of q skip locked
    ) as head
), lined_up as materialized (
    select id, event_id, event_recorded_at, turn, min(turn) over (partition by event_id) as first_turn
    from (
        select *, row_number() over (order by place, next_attempt_at, id) as turn
        from (
            select *, row_number() over (
                       partition by webhook_id order by is_redelivery, next_attempt_at, id) as place
            from taken
        ) as placed
    ) as queued
), wanted as materialized (
    select array_agg(event_id order by turn) as ids, array_agg(event_recorded_at order by turn) as times,
           array_agg(turn order by turn) as turns
    from lined_up
    where turn = first_turn
), payloads as (
    -- One after the other, as many as fit: the size of the text is known only when it has been read. The
    -- stored size can be a thousandth of it.
    select 1 as number, wanted.ids[1] as event_id, 0::bigint as bytes_before,
           bridge.payload_text(wanted.ids[1], wanted.times[1]) as payload
    from wanted
    where wanted.ids is not null
    union all
    select p.number + 1, wanted.ids[p.number + 1], total.bytes,
           bridge.payload_text(wanted.ids[p.number + 1], wanted.times[p.number + 1])
    from payloads p
    cross join wanted
    cross join lateral (select p.bytes_before + coalesce(octet_length(p.payload), 0) as bytes) as total
    where p.number < cardinality(wanted.ids) and total.bytes < $11
), leased as (
    update bridge.delivery_queue q
    set claimed_at = now(),
        leased_until = now() + make_interval(secs => w.timeout_seconds + 30),
        lease_token = lease.token,
        lease_owner = $14
    from bridge.webhooks w,
         (select gen_random_uuid() as token) as lease
    where q.id = any (array(
        select id from lined_up
        -- Up to the first one whose event did not fit.
        where (turn < (select turns[(select max(number) from payloads) + 1] from wanted)) is not false))
      and w.id = q.webhook_id
    returning q.id, q.webhook_id, q.event_id, q.event_recorded_at, q.event_type, q.attempt_number,
              q.attempts_before, q.is_redelivery, q.next_attempt_at, q.lease_token, q.claimed_at, q.committed_at,
              w.url, w.secret, w.timeout_seconds, w.retry_schedule, w.failure_share > 0.5 as is_failing, w.probe_at is not null as is_probe,
              case when w.previous_secret_expires_at > now() then w.previous_secret end as previous_secret
), spent as (
    update bridge.webhooks w
    set paced_until = case when w.rate_per_second is not null then
            greatest(reserved.paced_until, now() - make_interval(secs => greatest(1, 1 / w.rate_per_second)))
            + make_interval(secs => spending.count / w.rate_per_second)
            else w.paced_until end,
        -- If the probe is never settled, the next one runs when the lease has expired.
        probe_at = case when w.probe_at is not null then now() + make_interval(secs => w.timeout_seconds + 30) end
    from (select webhook_id, count(*) as count from leased group by webhook_id) as spending
    join reserved on reserved.id = spending.webhook_id
    where w.id = spending.webhook_id
), next as materialized (
    select array_agg(webhook_id) as webhook_ids, array_agg(queue) as queues,
           array_agg(nullif(at, '-infinity')) as times, array_agg(id) as ids
    from (
        -- The first candidate that was not leased.
        (select distinct on (webhook_id, queue) webhook_id, queue, next_attempt_at as at, id
         from free
         where not exists (select from leased where leased.id = free.id)
         order by webhook_id, queue, next_attempt_at, id)
        union all
        select q.webhook_id, q.queue, '-infinity', coalesce(h.id, q.left_off_id)
        from queues q
        left join heads h on h.webhook_id = q.webhook_id
        where q.queue = 'ordered' and (q.is_known or h.id is not null)
        union all
        select webhook_id, queue, left_off_at, left_off_id
        from queues
        where queue <> 'ordered' and not is_searched
    ) as queue
)
select now() as now,
       case when l.is_first is not false then next.webhook_ids end as next_webhook_ids,
       case when l.is_first is not false then next.queues end as next_queues,
       case when l.is_first is not false then next.times end as next_times,
       case when l.is_first is not false then next.ids end as next_ids,
       (select count(*) from taken) > (select count(*) from leased) as is_cut,
       l.*,
       p.payload
from next
left join (
    select *, row_number() over (order by id) = 1 as is_first,
           row_number() over (partition by event_id order by id) = 1 as is_first_of_event
    from leased
) as l on true
left join payloads p on p.event_id = l.event_id and l.is_first_of_event
order by l.id;
