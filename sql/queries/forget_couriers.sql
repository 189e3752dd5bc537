-- Forgets processes that hold no leases.
-- $1 their keys
delete from bridge.couriers where id = any ($1::bigint[]);
