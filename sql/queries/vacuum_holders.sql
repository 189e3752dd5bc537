-- What keeps vacuum from removing dead rows: sessions, prepared transactions and replication slots,
-- oldest first. The age of a slot in seconds is unknown.
select holder.name, holder.remedy, holder.seconds
from (
    select format('the session with PID %s of %s, %s', pid, coalesce(usename, backend_type), coalesce(state, 'in a state unknown')) as name,
           format('select pg_terminate_backend(%s)', pid) as remedy,
           extract(epoch from clock_timestamp() - xact_start)::float8 as seconds,
           greatest(age(backend_xid), age(backend_xmin)) as transactions
    from pg_catalog.pg_stat_activity
    -- Snapshots of other databases hold nothing back here. Those of standbys, without a database, do.
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
