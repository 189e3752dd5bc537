-- Whether the server is a standby.
select pg_is_in_recovery() as is_standby;
