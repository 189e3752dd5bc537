-- Tries to become the one drainer; the connection stays it until it ends.
select pg_try_advisory_lock(hashtext('bridge.drain')) as leading;
