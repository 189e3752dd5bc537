-- Returns unused leases, so that other couriers need not wait for them to expire.
-- $1 delivery ids, $2 their lease tokens
update bridge.delivery_queue q
set leased_until = null,
    lease_token = null,
    lease_owner = null,
    -- Not earlier than now: other couriers no longer scan the time before.
    next_attempt_at = greatest(q.next_attempt_at, now())
from unnest($1::bigint[], $2::uuid[]) as given_back(delivery_id, lease_token)
where q.id = given_back.delivery_id and q.lease_token = given_back.lease_token;
