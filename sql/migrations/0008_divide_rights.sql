-- Rights that can be given to a role that owns nothing, and none that anybody has unasked: what a
-- bridge does only as the owner may, functions do for it; and what was locked by an advisory lock,
-- which every role that may connect can take, is locked by a lock that takes a right.
-- Which roles there are, and their rights, is in sql/queries/rights.sql: init grants them.

-- --- partitions

create table bridge.redelivery_lock ();
comment on table bridge.redelivery_lock is
    'Has no rows: it is only locked. In row exclusive mode by what is redelivered (any number at once), in share row exclusive mode by who drops a partition (nobody else then). INSERT is the right that the first takes.';

create or replace function bridge.create_partitions(p_first_day date, p_days integer) returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_log       record;
    v_day       date;
    v_partition text;
    v_created   integer := 0;
begin
    if (p_days between 1 and 100
        and p_first_day between (now() at time zone 'UTC')::date - 400 and (now() at time zone 'UTC')::date + 100
       ) is not true then
        raise 'no partitions for % days from % on: at most 100 days, none of them far from today',
            coalesce(p_days::text, 'null'), coalesce(p_first_day::text, 'null')
            using errcode = 'invalid_parameter_value';
    end if;
    -- Bridges that start together take turns. A lock on a table, which takes a right on it: an
    -- advisory lock anybody can hold who may connect, and there would be no partition tomorrow.
    lock table bridge.partitioned_logs in share row exclusive mode;
    for v_log in select parent from bridge.partitioned_logs order by parent loop
        for v_day in select d::date from generate_series(p_first_day, p_first_day + p_days - 1, interval '1 day') d loop
            v_partition := format('%s_p%s', v_log.parent, to_char(v_day, 'YYYYMMDD'));
            continue when to_regclass(format('bridge.%I', v_partition)) is not null;
            -- Made beside the log and then attached: attaching locks out neither readers nor
            -- writers of the log, CREATE TABLE … PARTITION OF would lock out both.
            execute format(
                'create table bridge.%I (like bridge.%I including defaults including constraints including indexes including storage)',
                v_partition, v_log.parent);
            execute format(
                'alter table bridge.%I attach partition bridge.%I for values from (%L) to (%L)',
                v_log.parent, v_partition,
                to_char(v_day, 'YYYY-MM-DD') || ' 00:00:00+00',
                to_char(v_day + 1, 'YYYY-MM-DD') || ' 00:00:00+00');
            v_created := v_created + 1;
        end loop;
    end loop;
    return v_created;
end
$$;

create or replace function bridge.drop_expired_partition(p_parent text, p_keep_days integer) returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '300ms'
as $$
declare
    v_expired record;
    v_counts  jsonb := '{}';
begin
    if not exists (select from bridge.partitioned_logs where parent = p_parent) then
        raise 'there is no partitioned log %', coalesce(p_parent, 'null')
            using errcode = 'invalid_parameter_value';
    end if;
    -- What is of today or yet to come is never dropped.
    if (p_keep_days >= 0) is not true then
        raise 'p_keep_days must not be negative' using errcode = 'invalid_parameter_value';
    end if;
    lock table bridge.partitioned_logs in share row exclusive mode;
    -- What is redelivered meanwhile would be missing from its day and from the count of it, and its
    -- event would be pending again after it was looked for. (requeue has the other half.)
    lock table bridge.redelivery_lock in share row exclusive mode;
    for v_expired in
        select c.relname, day.date::timestamp at time zone 'UTC' as starts_at
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        cross join lateral (
            -- A case, since a plan may come to this before it has joined: for other tables, too.
            select case when c.relname ~ '_p[0-9]{8}$' then to_date(right(c.relname, 8), 'YYYYMMDD') end as date
        ) as day
        where i.inhparent = to_regclass(format('bridge.%I', p_parent))
          and day.date < (now() at time zone 'UTC')::date - p_keep_days
        order by c.relname
    loop
        -- What is still to be delivered keeps its payload.
        continue when p_parent = 'events' and exists (
            select from bridge.delivery_queue q
            where q.event_recorded_at >= v_expired.starts_at
              and q.event_recorded_at < v_expired.starts_at + interval '24 hours');
        if p_parent in ('delivery_log_success', 'delivery_log_failed') then
            -- Before any lock that others could meet: it may take a while.
            execute format(
                'select coalesce(jsonb_object_agg(webhook_id, count), ''{}'')'
                ' from (select webhook_id, count(*) as count from bridge.%I group by webhook_id) as counted',
                v_expired.relname) into v_counts;
        end if;
        -- Dropping locks out everybody for a moment; but whoever reads the log for long has the drop
        -- wait, and everybody else behind it. So it is tried a few times, each time briefly.
        perform set_config('lock_timeout', '20ms', true);
        for v_try in 1..10 loop
            begin
                if p_parent in ('delivery_log_success', 'delivery_log_failed') then
                    -- A settle takes this lock before any other: with it, none is under way that has
                    -- locked a webhook and waits for the log, or the other way round.
                    lock table only bridge.delivery_log in share row exclusive mode;
                end if;
                execute format('drop table bridge.%I', v_expired.relname);
                perform from bridge.webhooks where v_counts ? id::text order by id for no key update;
                update bridge.webhooks w
                set delivered_count = w.delivered_count
                        - case p_parent when 'delivery_log_success' then dropped.count::bigint else 0 end,
                    failed_count = w.failed_count
                        - case p_parent when 'delivery_log_failed' then dropped.count::bigint else 0 end
                from jsonb_each_text(v_counts) as dropped(webhook_id, count)
                where w.id = dropped.webhook_id::bigint;
                update bridge.deleted_webhooks w
                set delivered_count = w.delivered_count
                        - case p_parent when 'delivery_log_success' then dropped.count::bigint else 0 end,
                    failed_count = w.failed_count
                        - case p_parent when 'delivery_log_failed' then dropped.count::bigint else 0 end
                from jsonb_each_text(v_counts) as dropped(webhook_id, count)
                where w.id = dropped.webhook_id::bigint;
                delete from bridge.deleted_webhooks where delivered_count <= 0 and failed_count <= 0;
                return v_expired.relname;
            exception when lock_not_available then
                if v_try = 10 then
                    raise;
                end if;
                perform pg_sleep(0.01);
            end;
        end loop;
    end loop;
    return null;
end
$$;

create or replace function bridge.requeue(p_webhook_id bigint, p_delivery_ids bigint[], p_per_second double precision) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_requeued bigint;
begin
    -- The other half of what drop_expired_partition does: only one of the two at a time.
    lock table bridge.redelivery_lock in row exclusive mode;
    -- One session at a time for each webhook; and it stays while its deliveries come back.
    perform from bridge.webhooks where id = p_webhook_id for no key update;
    if not found then
        return 0;
    end if;
    with chosen as (
        delete from bridge.delivery_log l
        where l.webhook_id = p_webhook_id
          and l.id = any (p_delivery_ids)
          and exists (select from bridge.events e where e.id = l.event_id and e.recorded_at = l.event_recorded_at)
        returning l.*
    ), queued as (
        insert into bridge.delivery_queue
            (id, webhook_id, event_id, event_recorded_at, event_type, attempt_number, attempts_before,
             is_redelivery, created_at, next_attempt_at, captured_at, committed_at,
             response_status, response_body, error_message)
        overriding system value
        select id, webhook_id, event_id, event_recorded_at, event_type, attempt_number, attempt_number,
               true, created_at,
               clock_timestamp() + make_interval(secs => (row_number() over (order by id) - 1) / p_per_second),
               captured_at, committed_at, response_status, response_body, error_message
        from chosen
    ), counted as (
        update bridge.webhooks w
        set delivered_count = w.delivered_count - moved.delivered,
            failed_count = w.failed_count - moved.failed
        from (select count(*) filter (where status = 'success') as delivered,
                     count(*) filter (where status = 'failed') as failed
              from chosen) as moved
        where w.id = p_webhook_id
    )
    select count(*) into v_requeued from chosen;
    return v_requeued;
end
$$;

-- --- leadership

create table bridge.leader (
    is_only  boolean not null default true,
    pid      integer not null,
    role_id  oid     not null,
    lock_key bigint  not null,
    constraint leader_pkey primary key (is_only),
    constraint leader_is_only check (is_only)
);
comment on table bridge.leader is
    'The session that may drain: one row, written by lead(). It does for as long as the session of this pid and role holds the advisory lock with this key. Others see the key and may wait for the lock, but none of them is the session that is named here.';
comment on column bridge.leader.is_only is 'Always true: there is one row.';
comment on column bridge.leader.role_id is
    'The role that has logged in (pg_roles.oid): a process id is given out again, to strangers, too.';
comment on column bridge.leader.lock_key is
    'Random, and another for every leader: nobody can have taken the lock before.';
comment on table bridge.drainer is
    'The bridge that drains, or drained last: one row. Whether it still does, leader_pid() tells.';

create function bridge.leader_pid() returns integer
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select held.pid
    from (
        -- A lock's key of 64 bits is shown in two halves.
        select l.pid, a.usesysid as role_id, l.classid::bigint << 32 | l.objid::bigint as key
        from pg_locks l
        join pg_stat_activity a on a.pid = l.pid
        where l.locktype = 'advisory' and l.objsubid = 1 and l.mode = 'ExclusiveLock' and l.granted
          and l.database = (select oid from pg_database where datname = current_database())
    ) as held
    left join bridge.leader r on (r.pid, r.role_id, r.lock_key) = (held.pid, held.role_id, held.key)
    where r.pid is not null
       -- A bridge of the time before this table: the lock that it holds has a key that everybody
       -- knows, so it counts only where its role could be a bridge's.
       or held.key = hashtext('bridge.drain')
          and has_function_privilege(held.role_id, 'bridge.lead()', 'execute')
    order by r.pid is null
    limit 1
$$;
comment on function bridge.leader_pid() is
    'The process id of the session that drains, or null: none does.';

create function bridge.lead() returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_leader_pid integer;
    -- From what no session can foresee.
    v_key        bigint := ('x' || right(replace(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint;
begin
    begin
        -- Only one looks and takes at a time. Who finds another at it is not the leader yet.
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
    -- Bridges of the time before this function, which still wait to drain, look at this lock alone.
    -- If a stranger holds it, they wait for him, and we do not.
    if not pg_try_advisory_lock(hashtext('bridge.drain')) and bridge.leader_pid() is not null then
        perform pg_advisory_unlock(v_key);
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
    'Makes this session the one that drains, until it ends, unless another is. Returns whether it is. The right to call it is what tells a bridge from everybody else.';

-- --- what everybody had

revoke all on schema bridge from public;
-- By default, everybody may execute a function. That was harmless only as long as nobody may use
-- the schema. Every migration that makes functions has to end like this.
revoke execute on all functions in schema bridge from public;
