-- Leases due deliveries: for each webhook as many as it may have in flight, new deliveries before
-- redeliveries, oldest first. A lease outlives the longest attempt by 30 s; after that, any courier may
-- claim the delivery. Every row carries the current time; if nothing is due, one row carries only that.
-- Arrays with one element per webhook that this courier knows about:
-- $1 webhook, $2 its attempts in flight here, $3 ignore new deliveries that were due before this time
-- Other parameters:
-- $4 the same limit as $3 for all other webhooks; null: none. Earlier deliveries were already scanned.
--    While vacuum is held back, scanning them again would read every row settled since.
-- $5 most deliveries, $6 most of them for webhooks that mostly fail
-- $7 deliveries that this courier still holds. If settling them takes longer than their leases, they
--    must not be sent twice.
with reserved as materialized (
    -- Claiming uses up the rate and the breaker's one probe. Only the bridge that locks the row may
    -- use them. (If another session holds the lock, the webhook is skipped this time.)
    select id, paced_until, probe_at
    from bridge.webhooks
    where is_active and paused_at is null
      and (rate_per_second is not null or probe_at <= now())
    for no key update skip locked
), room as materialized (
    select w.id,
           w.ordered,
           w.failure_share > 0.5 as is_failing,
           coalesce(case when known.webhook_id is null then $4 else known.due_since end, '-infinity') as due_since,
           least(
               case
                   when w.probe_at is not null or w.ordered then 1
                   -- The more attempts fail, the fewer run at once. Recovery is gradual.
                   else ceil(w.max_concurrency * (1 - w.failure_share))
               end - coalesce(known.in_flight, 0),
               case when w.rate_per_second is not null then floor(
                   extract(epoch from now() - pace.used_until)::double precision * w.rate_per_second + 1e-6)
               end,
               $5
           )::integer as slots
    from bridge.webhooks w
    left join reserved r on r.id = w.id
    left join unnest($1::bigint[], $2::integer[], $3::timestamptz[]) as known(webhook_id, in_flight, due_since)
        on known.webhook_id = w.id
    cross join lateral (
        -- Allow a burst of one second's worth, and always at least one attempt.
        select greatest(r.paced_until, now() - make_interval(secs => greatest(1, 1 / w.rate_per_second))) as used_until
    ) as pace
    where w.is_active and w.paused_at is null
      and (w.rate_per_second is null or r.id is not null)
      and (w.probe_at is null or r.id is not null and r.probe_at <= now())
), free as materialized (
    -- Candidates are not locked yet. With many webhooks there are far more of them than free slots.
    select room.id as webhook_id, room.is_failing, candidate.is_redelivery, candidate.id, candidate.next_attempt_at,
           row_number() over (
               partition by room.id
               order by candidate.is_redelivery, candidate.next_attempt_at, candidate.id) as place,
           room.slots
    from room
    cross join (values (false), (true)) as kind(is_redelivery)
    cross join lateral (
        select q.id, q.next_attempt_at, q.is_redelivery
        from bridge.delivery_queue q
        where not room.ordered
          and q.webhook_id = room.id
          and q.is_redelivery = kind.is_redelivery
          and q.next_attempt_at <= now()
          and q.next_attempt_at >= case when kind.is_redelivery then '-infinity' else room.due_since end
          and (q.leased_until is null or q.leased_until <= now() and q.id <> all ($7::bigint[]))
        order by q.next_attempt_at, q.id
        limit greatest(room.slots, 0)
    ) as candidate
    union all
    select room.id, room.is_failing, null, head.id, head.next_attempt_at, 1, room.slots
    from room
    cross join lateral (
        select q.id, q.next_attempt_at
        from bridge.delivery_queue q
        where room.ordered
          and q.id = (select min(first.id) from bridge.delivery_queue first where first.webhook_id = room.id)
          and q.next_attempt_at <= now()
          and (q.leased_until is null or q.leased_until <= now() and q.id <> all ($7::bigint[]))
          -- A redelivery waits while a later delivery is in flight on another bridge.
          and not (q.is_redelivery and exists (
              select from bridge.delivery_queue busy
              where busy.webhook_id = room.id and busy.leased_until > now()))
        limit greatest(room.slots, 0)
    ) as head
), due as materialized (
    -- If slots are short, every webhook gets one before any webhook gets two.
    select webhook_id, is_redelivery, id
    from (
        select *, row_number() over (partition by is_failing order by place, next_attempt_at, id) as turn
        from free
        where place <= slots
    ) as queued
    where not is_failing or turn <= $6
    order by is_failing, place, next_attempt_at, id
    limit $5
), taken as materialized (
    -- For each webhook as many as are due. Skip those that another bridge is claiming, and take the next.
    select candidate.id
    from (
        select webhook_id, is_redelivery, count(*) as count
        from due
        where is_redelivery is not null
        group by webhook_id, is_redelivery
    ) as share
    join room on room.id = share.webhook_id
    cross join lateral (
        select q.id
        from bridge.delivery_queue q
        where q.webhook_id = share.webhook_id
          and q.is_redelivery = share.is_redelivery
          and q.next_attempt_at <= now()
          and q.next_attempt_at >= case when share.is_redelivery then '-infinity' else room.due_since end
          and (q.leased_until is null or q.leased_until <= now() and q.id <> all ($7))
        order by q.next_attempt_at, q.id
        limit share.count
        for update of q skip locked
    ) as candidate
    union all
    select head.id
    from due
    cross join lateral (
        select q.id
        from bridge.delivery_queue q
        where due.is_redelivery is null
          and q.id = due.id
          and q.next_attempt_at <= now()
          and (q.leased_until is null or q.leased_until <= now() and q.id <> all ($7))
        for update of q skip locked
    ) as head
), leased as (
    update bridge.delivery_queue q
    set claimed_at = now(),
        leased_until = now() + make_interval(secs => w.timeout_seconds + 30),
        lease_token = lease.token
    from bridge.webhooks w,
         (select gen_random_uuid() as token) as lease
    where q.id = any (array(select id from taken))
      and w.id = q.webhook_id
    returning q.id, q.webhook_id, q.event_id, q.event_recorded_at, q.event_type, q.attempt_number,
              q.attempts_before, q.is_redelivery, q.next_attempt_at, q.lease_token, q.claimed_at, q.committed_at,
              w.url, w.secret, w.timeout_seconds, w.retry_schedule, w.failure_share > 0.5 as is_failing, w.probe_at is not null as is_probe,
              case when w.previous_secret_expires_at > now() then w.previous_secret end as previous_secret
), spent as (
    update bridge.webhooks w
    set paced_until = case when w.rate_per_second is not null then
            greatest(w.paced_until, now() - make_interval(secs => greatest(1, 1 / w.rate_per_second)))
            + make_interval(secs => spending.count / w.rate_per_second)
            else w.paced_until end,
        -- If the probe is never settled, the next one runs when the lease has expired.
        probe_at = case when w.probe_at is not null then now() + make_interval(secs => w.timeout_seconds + 30) end
    from (select webhook_id, count(*) as count from leased group by webhook_id) as spending
    join reserved on reserved.id = spending.webhook_id
    where w.id = spending.webhook_id
)
select now() as now, l.*,
       (select e.payload from bridge.events e
        where e.id = l.event_id and e.recorded_at = l.event_recorded_at) as payload
from (select) as always
left join leased l on true
order by l.id;
