-- Leases deliveries that are due: for each active webhook as many as it may have in flight, oldest
-- first. A lease outlives the longest attempt by 30 s; past it, the delivery is anybody's again.
-- $1, $2 webhooks that have attempts in flight here, and how many
-- $3 how many deliveries at most
with due as materialized (
    select candidate.id
    from bridge.webhooks w
    left join unnest($1::bigint[], $2::integer[]) as busy(webhook_id, in_flight)
        on busy.webhook_id = w.id
    cross join lateral (
        select q.id, q.next_attempt_at
        from bridge.delivery_queue q
        where q.webhook_id = w.id
          and q.next_attempt_at <= now()
          and (q.leased_until is null or q.leased_until <= now())
        order by q.next_attempt_at, q.id
        limit greatest(w.max_concurrency - coalesce(busy.in_flight, 0), 0)
        for update of q skip locked
    ) as candidate
    where w.is_active
    order by candidate.next_attempt_at, candidate.id
    limit $3
), leased as (
    update bridge.delivery_queue q
    set leased_until = now() + make_interval(secs => w.timeout_seconds + 30),
        lease_token = gen_random_uuid()
    from bridge.webhooks w
    where q.id = any (array(select id from due))
      and w.id = q.webhook_id
    returning q.id, q.webhook_id, q.event_id, q.event_recorded_at, q.event_type,
              q.attempt_number, q.lease_token, w.url, w.secret, w.timeout_seconds
)
select l.id, l.webhook_id, l.event_id, l.event_type, l.attempt_number, l.lease_token,
       l.url, l.secret, l.timeout_seconds,
       (select e.payload from bridge.events e
        where e.id = l.event_id and e.recorded_at = l.event_recorded_at) as payload
from leased l
order by l.id;
