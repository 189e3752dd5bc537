-- A bridge takes over from others that are frozen, cut off or dead: it can tell whether it may end the
-- session of a frozen leader, and leases name their owner, so that those of a dead one need not expire.

create table bridge.couriers (
    id         bigint      not null,
    bridge     text        not null,
    started_at timestamptz not null default now(),
    constraint couriers_pkey primary key (id)
);
comment on table bridge.couriers is
    'The processes that deliver, one row each. A process lives as long as one of its sessions holds the advisory lock with its id. The row of one that died stays for minutes, until others have sent its deliveries.';
comment on column bridge.couriers.id is 'Random and new for every process: the key of the advisory lock.';
comment on column bridge.couriers.bridge is 'host:pid.';

alter table bridge.delivery_queue add column lease_owner bigint;
comment on column bridge.delivery_queue.lease_owner is
    'The courier that leased it (couriers.id). When that has died, any courier may claim it. Null: unknown, or not leased.';

create function bridge.takeover_obstacle(p_follower oid, p_leader oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when follower.rolsuper then null
        when leader.rolsuper then 'run all bridges as the same login, which need not be a superuser'
        when pg_has_role(follower.oid, leader.oid, 'usage') then null
        when pg_has_role(follower.oid, 'pg_signal_backend', 'usage')
             and pg_has_role(follower.oid, 'pg_read_all_stats', 'usage') then null
        else format('run all bridges as the same login, or run: grant pg_signal_backend, pg_read_all_stats to %I',
                    follower.rolname)
    end
    from pg_roles follower, pg_roles leader
    where follower.oid = p_follower and leader.oid = p_leader
$$;
comment on function bridge.takeover_obstacle(oid, oid) is
    'Returns what to do so that one role can see and end the sessions of another, or null if it can. A bridge needs that to take over from a leader that is frozen.';

revoke execute on all functions in schema bridge from public;
