-- Who keeps vacuum from removing the rows that have died since: sessions, prepared transactions and
-- replication slots, the oldest first. A slot has no age in seconds.
select holder.name, holder.remedy, holder.seconds
from (
    select format('the session with PID %s of %s, %s', pid, coalesce(usename, backend_type), coalesce(state, 'in a state unknown')) as name,
           format('select pg_terminate_backend(%s)', pid) as remedy,
           extract(epoch from clock_timestamp() - xact_start)::float8 as seconds,
           greatest(age(backend_xid), age(backend_xmin)) as transactions
    from pg_catalog.pg_stat_activity
    -- A snapshot of another database holds nothing back here; a standby's, which has none, does.
    where (datname = current_database() or datname is null)
      and pid <> pg_backend_pid() and backend_type <> 'autovacuum worker'
    union all
    select format('the prepared transaction %L of %s', gid, owner),
           format('rollback prepared %L', gid),
           extract(epoch from clock_timestamp() - prepared)::float8,
           age(transaction)
    from pg_catalog.pg_prepared_xacts
    where database = current_database()
    union all
    select format('the replication slot %s', slot_name),
           format('select pg_drop_replication_slot(%L)', slot_name),
           null,
           age(xmin)
    from pg_catalog.pg_replication_slots
) as holder
where holder.transactions is not null
order by holder.transactions desc;
