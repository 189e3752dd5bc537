-- A bridge takes over from others that are frozen or cut off: it can tell whether it may end the session
-- of the leader.

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
