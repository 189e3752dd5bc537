-- Partitions by UTC day: who has them, how they are created, and how they expire.

create table bridge.partitioned_logs (
    parent text not null,
    constraint partitioned_logs_pkey primary key (parent)
);
comment on table bridge.partitioned_logs is 'Tables of this schema that are partitioned by UTC day.';
insert into bridge.partitioned_logs (parent) values
    ('events'),
    ('delivery_log_success'),
    ('delivery_log_failed'),
    ('delivery_attempts');

create table bridge.redelivery_lock ();
comment on table bridge.redelivery_lock is
    'Empty; used only as a lock. requeue takes it in row exclusive mode, which any number of sessions can share; drop_expired_partition takes it in share row exclusive mode, which excludes them. The first needs the INSERT privilege.';

create function bridge.create_partitions(p_first_day date, p_days integer) returns integer
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
        raise 'cannot create partitions for % days from %: at most 100 days, close to today',
            coalesce(p_days::text, 'null'), coalesce(p_first_day::text, 'null')
            using errcode = 'invalid_parameter_value';
    end if;
    -- Bridges that start together take turns. A table lock needs a privilege; an advisory lock could
    -- be held by any role that may connect, and tomorrow there would be no partition.
    lock table bridge.partitioned_logs in share row exclusive mode;
    for v_log in select parent from bridge.partitioned_logs order by parent loop
        for v_day in select d::date from generate_series(p_first_day, p_first_day + p_days - 1, interval '1 day') d loop
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
comment on function bridge.create_partitions(date, integer) is
    'Creates the missing daily partitions of every log, for a number of days from a date on. Returns how many it created.';

create function bridge.drop_expired_partition(p_parent text, p_keep_days integer) returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '300ms'
as $$
declare
    v_has_deliveries constant boolean := p_parent in ('delivery_log_success', 'delivery_log_failed');
    v_expired        record;
    v_counts         jsonb := '{}';
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
        -- Pending deliveries still need their payload.
        continue when p_parent = 'events' and exists (
            select from bridge.delivery_queue q
            where q.event_recorded_at >= v_expired.starts_at
              and q.event_recorded_at < v_expired.starts_at + interval '24 hours');
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
comment on function bridge.drop_expired_partition(text, integer) is
    'Drops the oldest partition of a log that is older than the given number of days, and subtracts it from the webhooks'' counts. Returns its name, or null if no partition has expired. Raises lock_not_available after about 0.3 s if a session is reading the log.';
