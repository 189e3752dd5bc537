-- Gives leases back unused, so that another courier need not wait for them to run out.
-- $1 deliveries, $2 their lease tokens
update bridge.delivery_queue q
set leased_until = null,
    lease_token = null,
    -- Not earlier than what the other couriers have looked through.
    next_attempt_at = greatest(q.next_attempt_at, now())
from unnest($1::bigint[], $2::uuid[]) as given_back(delivery_id, lease_token)
where q.id = given_back.delivery_id and q.lease_token = given_back.lease_token;
