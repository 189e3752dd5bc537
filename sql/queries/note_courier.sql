-- Registers a process before it leases deliveries.
-- $1 its key, $2 the bridge as host:pid
insert into bridge.couriers (id, bridge)
values ($1, $2)
on conflict on constraint couriers_pkey do nothing;
