-- Lets one installer work at a time, until the session ends. An advisory lock, which any role can hold,
-- because there may be no schema yet to hold anything better.
select pg_advisory_lock(hashtext('bridge.install'));
