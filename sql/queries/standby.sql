-- Whether the server only repeats what another one does.
select pg_is_in_recovery() as is_standby;
