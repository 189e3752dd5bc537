-- Takes the lock that lets one installer work at a time, and keeps it until the session ends. Before
-- there is a schema, nothing but an advisory lock can be had; so anybody can hold it.
select pg_advisory_lock(hashtext('bridge.install'));
