-- Holes in the event log. A day of events stays while one of its deliveries is pending, and later days may
-- be dropped before it; a DBA can drop any day. The log says from which id on it is complete.

create table bridge.log_start (
    is_only         boolean not null default true,
    missing_through bigint  not null default 0,
    constraint log_start_pkey primary key (is_only),
    constraint log_start_is_only check (is_only)
);
comment on table bridge.log_start is 'Where the complete part of the event log begins: one row. log_bounds() reads it.';
comment on column bridge.log_start.missing_through is
    'The newest event that was dropped: events up to this id may be missing. Maintained by drop_expired_partition and create_partitions.';
insert into bridge.log_start default values;

create function bridge.log_bounds(out missing_through bigint, out newest_id bigint)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_last_id bigint;
    v_hole    record;
    v_below   bigint;
    v_above   bigint;
begin
    select last_value - (not is_called)::integer into v_last_id from bridge.event_id;
    select s.missing_through into missing_through from bridge.log_start s;
    -- Days without a partition: someone dropped it, or no bridge ran. Ids tell which.
    for v_hole in
        select (day + 1)::timestamp at time zone 'UTC' as begins_at, next_day::timestamp at time zone 'UTC' as ends_at
        from (
            select day, today, lead(day, 1, today + 1) over (order by day) as next_day
            from (
                select case when c.relname ~ '_p[0-9]{8}$' then to_date(right(c.relname, 8), 'YYYYMMDD') end as day,
                       (now() at time zone 'UTC')::date as today
                from pg_inherits i
                join pg_class c on c.oid = i.inhrelid
                where i.inhparent = 'bridge.events'::regclass and not i.inhdetachpending
            ) as partition
        ) as neighbours
        where next_day > day + 1 and day < today
        order by day desc
    loop
        select max(e.id) into v_below from bridge.events e where e.recorded_at < v_hole.begins_at;
        select coalesce(min(e.id), v_last_id + 1) into v_above from bridge.events e where e.recorded_at >= v_hole.ends_at;
        -- If nothing is left below the hole, the log begins after it anyway.
        exit when v_below is null;
        if v_above > v_below + 1 then
            missing_through := greatest(missing_through, v_above - 1);
            exit;
        end if;
    end loop;
    newest_id := greatest(coalesce((select max(e.id) from bridge.events e), v_last_id), missing_through);
end
$$;
comment on function bridge.log_bounds() is
    'From which id on the event log is complete, and where it ends. Events up to missing_through may be missing, even if older ones are left for their deliveries. newest_id is the highest id or, if the log is empty, the last one assigned.';
revoke execute on function bridge.log_bounds() from public;

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
    v_missing   bigint;
begin
    if (p_days between 1 and 100
        and p_first_day between (now() at time zone 'UTC')::date - 400 and (now() at time zone 'UTC')::date + 100
       ) is not true then
        raise 'cannot create partitions for % days from %: at most 100 days, close to today',
            coalesce(p_days::text, 'null'), coalesce(p_first_day::text, 'null')
            using errcode = 'invalid_parameter_value';
    end if;
    -- Bridges that start together take turns. A table lock needs a privilege; an advisory lock could
    -- be held by any role that may connect, and tomorrow there would be no partition.
    lock table bridge.partitioned_logs in share row exclusive mode;
    -- If someone dropped a day, a new partition would hide that.
    select missing_through into v_missing from bridge.log_bounds();
    update bridge.log_start set missing_through = v_missing where missing_through < v_missing;
    for v_log in select parent from bridge.partitioned_logs order by parent loop
        -- Not a series of timestamps: some time zones have a day without a midnight.
        for v_day in select p_first_day + n from generate_series(0, p_days - 1) as n loop
            v_partition := format('%s_p%s', v_log.parent, to_char(v_day, 'YYYYMMDD'));
            continue when to_regclass(format('bridge.%I', v_partition)) is not null;
            -- ATTACH PARTITION blocks neither readers nor writers of the log. CREATE TABLE …
            -- PARTITION OF would block both.
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
    v_has_deliveries constant boolean := p_parent in ('delivery_log_success', 'delivery_log_failed');
    v_expired        record;
    v_counts         jsonb := '{}';
    v_newest_id      bigint;
begin
    if not exists (select from bridge.partitioned_logs where parent = p_parent) then
        raise 'there is no partitioned log %', coalesce(p_parent, 'null')
            using errcode = 'invalid_parameter_value';
    end if;
    -- Today's partition and those of the future are never dropped.
    if (p_keep_days >= 0) is not true then
        raise 'p_keep_days must not be negative' using errcode = 'invalid_parameter_value';
    end if;
    lock table bridge.partitioned_logs in share row exclusive mode;
    -- Keep requeue out. A delivery that it takes out of the log now would be missing from the day's
    -- count, and its event would be needed again after the check for pending deliveries.
    lock table bridge.redelivery_lock in share row exclusive mode;
    for v_expired in
        select c.relname, day.date::timestamp at time zone 'UTC' as starts_at
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        cross join lateral (
            -- A case, because the plan may evaluate this before the join, for other tables.
            select case when c.relname ~ '_p[0-9]{8}$' then to_date(right(c.relname, 8), 'YYYYMMDD') end as date
        ) as day
        where i.inhparent = to_regclass(format('bridge.%I', p_parent))
          and day.date < (now() at time zone 'UTC')::date - p_keep_days
        order by c.relname
    loop
        if p_parent = 'events' then
            -- Deliveries that are pending or still to be created need their payload.
            continue when exists (
                select from bridge.delivery_queue q
                where q.event_recorded_at >= v_expired.starts_at
                  and q.event_recorded_at < v_expired.starts_at + interval '24 hours');
            continue when exists (
                select from bridge.deferred_events d
                where d.event_recorded_at >= v_expired.starts_at
                  and d.event_recorded_at < v_expired.starts_at + interval '24 hours');
            execute format('select max(id) from bridge.%I', v_expired.relname) into v_newest_id;
        end if;
        if v_has_deliveries then
            -- Count before taking a lock that could block others: this may take a while.
            execute format(
                'select coalesce(jsonb_object_agg(webhook_id, count), ''{}'')'
                ' from (select webhook_id, count(*) as count from bridge.%I group by webhook_id) as counted',
                v_expired.relname) into v_counts;
        end if;
        -- DROP locks out everyone for a moment. But if a long query reads the log, DROP waits, and
        -- everyone else waits behind it. So try a few times, each time briefly.
        perform set_config('lock_timeout', '20ms', true);
        for v_try in 1..10 loop
            begin
                if v_has_deliveries then
                    -- settle takes this lock first. Holding it, no settle can be waiting for the log
                    -- with a webhook locked, or the other way round.
                    lock table only bridge.delivery_log in share row exclusive mode;
                end if;
                execute format('drop table bridge.%I', v_expired.relname);
                update bridge.log_start set missing_through = v_newest_id where missing_through < v_newest_id;
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

comment on column bridge.webhooks.failing_since is
    'Start of the first failed attempt since the last success, later by the time of long pauses in which nothing was attempted; null if the last attempt succeeded or none was made.';

-- Changes of the server's clock. Every stored time uses that clock, so after it was set back an hour,
-- retries, leases and expiries would be an hour late.

create table bridge.clock (
    is_only    boolean not null default true,
    seen_at    timestamptz,
    kept_until timestamptz,
    constraint clock_pkey primary key (is_only),
    constraint clock_is_only check (is_only)
);
comment on table bridge.clock is 'What bridges know about the clock of this server: one row.';
comment on column bridge.clock.seen_at is 'The time when a bridge last looked. If it is later than now, the clock was set back.';
comment on column bridge.clock.kept_until is
    'Until then, nothing that has expired is deleted: the clock was set forward, or no bridge has looked for a day, and the time may be wrong. Null: no wait.';
insert into bridge.clock default values;

create function bridge.watch_clock(
    p_elapsed_seconds double precision, out step_seconds double precision, out may_delete boolean
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_clock   bridge.clock;
    v_now     timestamptz;
    v_skipped interval;
begin
    select * into v_clock from bridge.clock for update;
    v_now := clock_timestamp();
    step_seconds := 0;
    if v_now < v_clock.seen_at - interval '1 second' then
        -- shift_times() notes the time, with all that depends on it.
        step_seconds := extract(epoch from v_now - v_clock.seen_at);
    else
        v_skipped := make_interval(secs =>
            extract(epoch from v_now - v_clock.seen_at)::double precision - coalesce(p_elapsed_seconds, 0));
        if p_elapsed_seconds is not null and v_skipped > interval '1 minute' then
            step_seconds := extract(epoch from v_skipped);
            update bridge.webhooks
            set previous_secret_expires_at = previous_secret_expires_at + v_skipped
            where previous_secret_expires_at > v_clock.seen_at;
        end if;
        update bridge.clock
        set seen_at = v_now,
            -- If the last wait has passed unseen, do not wait again: a bridge that runs once a week must delete too.
            kept_until = case
                when v_skipped > interval '24 hours' and coalesce(kept_until <= seen_at, true) then v_now + interval '24 hours'
                else kept_until
            end
        returning kept_until into v_clock.kept_until;
    end if;
    may_delete := step_seconds >= 0 and coalesce(v_clock.kept_until <= v_now, true);
end
$$;
comment on function bridge.watch_clock(double precision) is
    'Notes the time. step_seconds: by how much the clock was changed since a bridge last looked; 0: by nothing to speak of; negative: shift_times() must be called. may_delete: whether what has expired can be deleted. p_elapsed_seconds is the time since the calling bridge last looked, by another clock; null: it has not looked before, so that a step forward looks like a time without a bridge.';
revoke execute on function bridge.watch_clock(double precision) from public;

create function bridge.shift_times() returns double precision
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_seen_at timestamptz;
    v_now     timestamptz;
    v_step    interval;
begin
    select seen_at into v_seen_at from bridge.clock for update;
    v_now := clock_timestamp();
    -- In seconds: a day may have 25 hours in the session's time zone.
    v_step := make_interval(secs => extract(epoch from v_now - v_seen_at)::double precision);
    if (v_step < interval '-1 second') is not true then
        return 0;
    end if;
    update bridge.clock
    set seen_at = v_now, kept_until = kept_until + v_step;
    update bridge.webhooks
    set previous_secret_expires_at = previous_secret_expires_at + v_step
    where previous_secret_expires_at > v_now;
    update bridge.redeliveries set next_due_at = next_due_at + v_step where next_due_at > v_now;
    update bridge.ws_tickets set expires_at = expires_at + v_step where expires_at > v_now;
    update bridge.console_sessions set expires_at = expires_at + v_step where expires_at > v_now;
    -- Leases that were taken since the change are right.
    update bridge.delivery_queue
    set next_attempt_at = next_attempt_at + case when next_attempt_at > v_now then v_step else interval '0 s' end,
        leased_until = leased_until + case when claimed_at > v_now then v_step else interval '0 s' end
    where next_attempt_at > v_now or leased_until is not null and claimed_at > v_now;
    perform bridge.wake_couriers();
    return extract(epoch from v_step);
end
$$;
comment on function bridge.shift_times() is
    'Moves stored times back if the server''s clock was set back since a bridge last looked: what waits or expires then does so after the time that was left. Returns by how many seconds; 0 if another bridge has done it. paced_until and probe_at are not moved: claim knows when they are too far ahead.';
revoke execute on function bridge.shift_times() from public;
