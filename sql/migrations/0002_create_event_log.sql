-- The event log, and the one bridge that writes it.

-- --- tables

create sequence bridge.event_id;
comment on sequence bridge.event_id is
    'Event ids. Only the drainer takes them, so their order is the order in which commits became visible.';

create table bridge.events (
    id           bigint      not null default nextval('bridge.event_id'),
    event_type   text        not null,
    payload      jsonb       not null,
    occurred_at  timestamptz not null,
    committed_at timestamptz,
    recorded_at  timestamptz not null default now(),
    constraint events_pkey primary key (id, recorded_at)
) partition by range (recorded_at);
alter sequence bridge.event_id owned by bridge.events.id;
comment on table bridge.events is
    'The event log, in commit order by id. Rows are never updated; whole days are dropped when they expire.';
comment on column bridge.events.occurred_at is
    'When the trigger fired: at the application''s statement or, for a deferred rule, at its commit.';
comment on column bridge.events.committed_at is
    'When the application''s transaction committed. Null unless the server has track_commit_timestamp on.';
comment on column bridge.events.recorded_at is 'When the drain moved the event from the outbox to this log.';
comment on index bridge.events_pkey is
    'events_since: everything after an id. Deliveries find their payload by id and recorded_at, in one partition.';

create table bridge.drainer (
    is_only       boolean     not null default true,
    bridge        text        not null,
    mode          text        not null,
    is_quiet      boolean     not null,
    switches      bigint      not null default 0,
    switched_at   timestamptz not null default clock_timestamp(),
    leading_since timestamptz not null default clock_timestamp(),
    constraint drainer_pkey primary key (is_only),
    constraint drainer_is_only check (is_only),
    constraint drainer_mode_known check (mode in ('adaptive', 'notify', 'poll'))
);
comment on table bridge.drainer is
    'The bridge that drains the outbox, or drained it last: one row. leader_pid() tells whether it still does.';
comment on column bridge.drainer.is_only is 'Always true, so that there is only one row.';
comment on column bridge.drainer.bridge is 'Host and process id, as host:pid.';
comment on column bridge.drainer.mode is
    'BRIDGE_DOORBELL. adaptive: rings while events are rare, polls while they are frequent. notify: always rings. poll: never rings.';
comment on column bridge.drainer.is_quiet is 'The current doorbell setting.';
comment on column bridge.drainer.switches is 'How often the doorbell was switched since leading_since.';
comment on column bridge.drainer.switched_at is 'When the doorbell was last set.';

create table bridge.leader (
    is_only  boolean not null default true,
    pid      integer not null,
    role_id  oid     not null,
    lock_key bigint  not null,
    constraint leader_pkey primary key (is_only),
    constraint leader_is_only check (is_only)
);
comment on table bridge.leader is
    'The session that may drain: one row, written by lead(). It leads for as long as the session with this pid and role holds the advisory lock with this key. Other sessions can see the key and even take the lock later, but they are not the session named here.';
comment on column bridge.leader.is_only is 'Always true, so that there is only one row.';
comment on column bridge.leader.role_id is
    'The role that logged in (pg_roles.oid), because process ids are reused, possibly by other roles.';
comment on column bridge.leader.lock_key is
    'Random and new for every leader, so that no session can have taken the lock in advance.';

-- --- functions

create function bridge.leader_pid() returns integer
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select l.pid
    from bridge.leader r
    join pg_stat_activity a on a.pid = r.pid and a.usesysid = r.role_id
    join pg_locks l on l.pid = r.pid
    where l.locktype = 'advisory' and l.objsubid = 1 and l.mode = 'ExclusiveLock' and l.granted
      and l.database = (select oid from pg_database where datname = current_database())
      -- pg_locks shows a 64-bit key in two halves.
      and (l.classid::bigint << 32 | l.objid::bigint) = r.lock_key
    limit 1
$$;
comment on function bridge.leader_pid() is
    'Returns the process id of the session that drains, or null if no bridge drains.';

create function bridge.lead() returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_leader_pid integer;
    -- No session can predict it.
    v_key        bigint := ('x' || right(replace(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint;
begin
    begin
        -- One session at a time checks and takes over. If another is at it, this one does not lead yet.
        lock table bridge.leader in share row exclusive mode nowait;
    exception when lock_not_available then
        return false;
    end;
    v_leader_pid := bridge.leader_pid();
    if v_leader_pid is not null then
        return v_leader_pid = pg_backend_pid();
    end if;
    if not pg_try_advisory_lock(v_key) then
        return false;
    end if;
    insert into bridge.leader as leader (pid, role_id, lock_key)
    select pid, usesysid, v_key from pg_stat_activity where pid = pg_backend_pid()
    on conflict on constraint leader_pkey do update
    set pid = excluded.pid, role_id = excluded.role_id, lock_key = excluded.lock_key;
    return found;
end
$$;
comment on function bridge.lead() is
    'Makes this session the drainer until it ends, unless another session is. Returns whether it is the drainer. Only roles that may execute this function can drain.';
