-- Schema bridge after every migration, as pg_dump writes it. Written by make schema.

CREATE SCHEMA bridge;

COMMENT ON SCHEMA bridge IS 'pgbridge: captured events, their log, and the deliveries made of them.';

CREATE FUNCTION bridge.audit(p_action text, p_target_id bigint, p_target text, p_changes jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_who jsonb;
begin
    begin
        v_who := nullif(current_setting('bridge.actor', true), '')::jsonb;
    exception when others then
        v_who := null; -- Somebody has set it to something else.
    end;
    if coalesce(v_who ->> 'via' not in ('api', 'console', 'cli'), true) then
        v_who := jsonb_build_object(
            'via', case when current_setting('application_name') = 'pgbridge' then 'bridge' else 'sql' end,
            'actor', current_setting('application_name'));
    end if;
    insert into bridge.audit_log (action, target_id, target, via, actor, address, changes)
    values (p_action, p_target_id, p_target, v_who ->> 'via', coalesce(v_who ->> 'actor', ''),
            v_who ->> 'address', p_changes);
end
$$;

COMMENT ON FUNCTION bridge.audit(p_action text, p_target_id bigint, p_target text, p_changes jsonb) IS 'Writes down a change, and who makes it: bridge.actor, a setting of the transaction or session: {"via": "api", "actor": …, "address": …}.';

CREATE FUNCTION bridge.audit_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_columns constant text[] := string_to_array(tg_argv[1], ' ');
    v_secrets constant text[] := string_to_array(tg_argv[2], ' ');
    v_old     jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) else '{}' end;
    v_new     jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) else '{}' end;
    v_row     jsonb := case when tg_op <> 'DELETE' then v_new else v_old end;
    v_changes jsonb;
begin
    select jsonb_object_agg(
               changed.name,
               case when changed.name = any (v_secrets)
                   then jsonb_build_object(
                       'from', case when changed.old_value <> 'null' then '(secret)' end,
                       'to', case when changed.new_value <> 'null' then '(secret)' end)
                   else jsonb_build_object('from', changed.old_value, 'to', changed.new_value)
               end)
    into v_changes
    from (
        select c.name, coalesce(v_old -> c.name, 'null') as old_value, coalesce(v_new -> c.name, 'null') as new_value
        from unnest(v_columns || v_secrets) as c(name)
    ) as changed
    where changed.old_value <> changed.new_value;
    if v_changes is not null then
        perform bridge.audit(
            format('%s.%s', tg_argv[0],
                   case tg_op when 'INSERT' then 'created' when 'DELETE' then 'deleted' else 'updated' end),
            (v_row ->> 'id')::bigint, v_row ->> 'name', v_changes);
    end if;
    return null;
end
$$;

COMMENT ON FUNCTION bridge.audit_change() IS 'Trigger: writes a change of a row into audit_log. Arguments: what the row is, the columns that matter, and those that are secret.';

CREATE FUNCTION bridge.audit_truncate() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_count bigint;
begin
    execute format('select count(*) from %s', tg_relid::regclass) into v_count;
    perform bridge.audit(
        format('%s.truncated', tg_argv[0]), null, null, jsonb_build_object('count', v_count));
    return null;
end
$$;

COMMENT ON FUNCTION bridge.audit_truncate() IS 'Trigger: writes into audit_log that a table is emptied, and how many rows it had. Argument: what a row is.';

CREATE FUNCTION bridge.create_partitions(p_first_day date, p_days integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

COMMENT ON FUNCTION bridge.create_partitions(p_first_day date, p_days integer) IS 'Creates the missing day partitions of every log, from a day on for a number of days. Returns how many it created.';

CREATE FUNCTION bridge.drop_expired_partition(p_parent text, p_keep_days integer) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '300ms'
    AS $_$
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
$_$;

COMMENT ON FUNCTION bridge.drop_expired_partition(p_parent text, p_keep_days integer) IS 'Drops the oldest partition of a log whose whole day is older than the days to keep, and takes it from the counts of the webhooks. Returns its name; null if there is none. Raises lock_not_available after about 0.3 s if somebody is reading the log.';

CREATE FUNCTION bridge.emit(p_event_type text, p_payload jsonb DEFAULT '{}'::jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
begin
    if p_event_type is null or p_event_type !~ '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$' or length(p_event_type) > 255 then
        raise 'not an event type: %', coalesce(p_event_type, 'null')
            using errcode = 'invalid_parameter_value',
                  hint = 'letters, digits, _ and -, in parts joined by dots, such as order.paid';
    end if;
    if p_payload is null then
        raise 'the payload of an event is JSON, not null' using errcode = 'invalid_parameter_value';
    end if;
    insert into bridge.outbox (event_type, payload) values (p_event_type, p_payload);
    perform bridge.ring();
end
$_$;

COMMENT ON FUNCTION bridge.emit(p_event_type text, p_payload jsonb) IS 'Makes an event by hand: it goes to the live stream and to the webhooks like a captured one, once the transaction is committed.';

CREATE FUNCTION bridge.failed_capture(p_table oid, p_row jsonb, p_error text) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select jsonb_build_object('_capture_error', p_error) || (
        select coalesce(jsonb_object_agg(a.attname, p_row -> a.attname::text), '{}')
        from pg_index i
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
        where i.indrelid = p_table and i.indisprimary and p_row is not null)
$$;

COMMENT ON FUNCTION bridge.failed_capture(p_table oid, p_row jsonb, p_error text) IS 'The payload of an event whose own payload cannot be computed: why not, and the row''s primary key.';

CREATE FUNCTION bridge.forget_audit(p_keep_days integer) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    with forgotten as (
        delete from bridge.audit_log
        where changed_at < now() - make_interval(days => greatest(p_keep_days, 30))
        returning id
    )
    select count(*) from forgotten
$$;

COMMENT ON FUNCTION bridge.forget_audit(p_keep_days integer) IS 'Deletes what is older than so many days from audit_log, but nothing of the last 30. Returns how many.';

CREATE FUNCTION bridge.forgive_webhook() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    new.disabled_reason := null;
    new.failing_since := null;
    new.failure_share := 0;
    new.probe_at := null;
    return new;
end
$$;

COMMENT ON FUNCTION bridge.forgive_webhook() IS 'Trigger: whoever switches a webhook on, by whatever way, has dealt with what it was off for. With its old failing_since, its first failure would switch it off again.';

CREATE FUNCTION bridge.is_ours(p_xid xid) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    -- age() counts from the current transaction; its savepoints are younger, and so are others'.
    select age(p_xid) <= 0
       and pg_xact_status((pg_current_xact_id()::text::bigint - age(p_xid))::text::xid8) = 'in progress'
$$;

COMMENT ON FUNCTION bridge.is_ours(p_xid xid) IS 'Whether a version of a row that can be seen was written by the current transaction or a savepoint of it: its xmin, or xmax, is then still in progress.';

CREATE FUNCTION bridge.lead() RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

COMMENT ON FUNCTION bridge.lead() IS 'Makes this session the one that drains, until it ends, unless another is. Returns whether it is. The right to call it is what tells a bridge from everybody else.';

CREATE FUNCTION bridge.leader_pid() RETURNS integer
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

COMMENT ON FUNCTION bridge.leader_pid() IS 'The process id of the session that drains, or null: none does.';

CREATE FUNCTION bridge.note(p_topic text, p_key text, p_value jsonb) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    insert into bridge.transaction_notes (topic, key, value)
    select p_topic, p_key, p_value
    -- A longer key does not fit into the index, and the application's statement would fail.
    where octet_length(p_topic) + octet_length(p_key) <= 1000
    on conflict on constraint transaction_notes_pkey do nothing
$$;

COMMENT ON FUNCTION bridge.note(p_topic text, p_key text, p_value jsonb) IS 'Leaves a note for the rest of the current transaction; the first note of a topic and key stays. A key too long to be indexed is not noted.';

CREATE FUNCTION bridge.note_deleted_webhook() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    insert into bridge.deleted_webhooks
        (id, name, url, event_type, deleted_at, delivered_count, failed_count)
    values (old.id, old.name, old.url, old.event_type, now(), old.delivered_count, old.failed_count);
    return null;
end
$$;

COMMENT ON FUNCTION bridge.note_deleted_webhook() IS 'Trigger: keeps what a deleted webhook was for as long as the log has deliveries to it.';

CREATE FUNCTION bridge.noted(p_topic text, p_key text) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select value
    from bridge.transaction_notes
    where xact = pg_current_xact_id_if_assigned() and topic = p_topic and key = p_key
$$;

COMMENT ON FUNCTION bridge.noted(p_topic text, p_key text) IS 'The note that the current transaction left, or null.';

CREATE FUNCTION bridge.passes(p_filter jsonpath, p_payload jsonb) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    return p_filter is null or coalesce(jsonb_path_match_tz(p_payload, p_filter, '{}', true), false);
exception when others then
    return false;
end
$$;

COMMENT ON FUNCTION bridge.passes(p_filter jsonpath, p_payload jsonb) IS 'Whether a webhook with this filter takes this payload. Errors mean no: some, such as a variable without a value or nesting too deep, not even jsonpath''s silent mode and its operators keep to themselves, and one webhook''s filter would stop the drain for all.';

CREATE FUNCTION bridge.patterns_matching(p_event_type text) RETURNS text[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select array[p_event_type]
        || array(
            select array_to_string(parts[1:length], '.') || '.*'
            from string_to_array(p_event_type, '.') as parts,
                 generate_series(cardinality(parts) - 1, 1, -1) as length)
        || array['*']
$$;

COMMENT ON FUNCTION bridge.patterns_matching(p_event_type text) IS 'Every webhooks.event_type that chooses this event type, the most exact first.';

CREATE FUNCTION bridge.pause_webhook(p_webhook_id bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    update bridge.webhooks
    set paused_at = coalesce(paused_at, now()), updated_at = now()
    where id = p_webhook_id;
    if not found then
        raise 'there is no webhook %', p_webhook_id using errcode = 'no_data_found';
    end if;
end
$$;

COMMENT ON FUNCTION bridge.pause_webhook(p_webhook_id bigint) IS 'Has a webhook''s deliveries wait, new ones included, until resume_webhook. What is in flight ends.';

CREATE FUNCTION bridge.redeliver(p_delivery_id bigint) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_queued   record;
    v_finished record;
begin
    loop
        update bridge.delivery_queue
        set next_attempt_at = least(next_attempt_at, clock_timestamp())
        where id = p_delivery_id
        returning webhook_id into v_queued;
        if found then
            perform bridge.audit('delivery.redelivered', p_delivery_id, null,
                jsonb_build_object('webhook_id', v_queued.webhook_id, 'was_pending', true));
            perform bridge.wake_couriers();
            return false;
        end if;
        select l.webhook_id,
               exists (select from bridge.webhooks w where w.id = l.webhook_id) as has_webhook,
               exists (select from bridge.events e
                       where e.id = l.event_id and e.recorded_at = l.event_recorded_at) as has_event
        into v_finished
        from bridge.delivery_log l
        where l.id = p_delivery_id;
        if not found then
            -- Somebody may have put it back between the two looks.
            continue when exists (select from bridge.delivery_queue where id = p_delivery_id);
            raise 'there is no delivery %', p_delivery_id using errcode = 'no_data_found';
        end if;
        if not v_finished.has_webhook then
            raise 'the webhook of delivery % is deleted', p_delivery_id
                using errcode = 'object_not_in_prerequisite_state';
        end if;
        if not v_finished.has_event then
            raise 'the event of delivery % is no longer in the log', p_delivery_id
                using errcode = 'object_not_in_prerequisite_state';
        end if;
        if bridge.requeue(v_finished.webhook_id, array[p_delivery_id], 1) > 0 then
            perform bridge.audit('delivery.redelivered', p_delivery_id, null,
                jsonb_build_object('webhook_id', v_finished.webhook_id, 'was_pending', false));
            perform bridge.wake_couriers();
            return true;
        end if;
        -- Something has changed since it was looked at: look again.
    end loop;
end
$$;

COMMENT ON FUNCTION bridge.redeliver(p_delivery_id bigint) IS 'Sends a delivery again, whatever became of it, with the same webhook-id: its attempts go on counting, and the retry schedule begins anew. One that is still pending is sent at once, and returns false.';

CREATE FUNCTION bridge.redeliver_failed(p_webhook_id bigint, p_since timestamp with time zone, p_until timestamp with time zone DEFAULT NULL::timestamp with time zone, p_dry_run boolean DEFAULT false, p_per_second double precision DEFAULT 20) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_delivery_ids bigint[];
    v_requeued     bigint;
begin
    if not exists (select from bridge.webhooks where id = p_webhook_id) then
        raise 'there is no webhook %', p_webhook_id using errcode = 'no_data_found';
    end if;
    if p_since is null then
        raise 'p_since must not be null' using errcode = 'invalid_parameter_value';
    end if;
    if p_per_second is null or not p_per_second between 0.001 and 100000 then
        raise 'p_per_second must be between 0.001 and 100000' using errcode = 'invalid_parameter_value';
    end if;
    select array_agg(l.id) into v_delivery_ids
    from bridge.delivery_log_failed l
    where l.webhook_id = p_webhook_id
      and l.finished_at >= p_since
      and (p_until is null or l.finished_at < p_until)
      and exists (select from bridge.events e where e.id = l.event_id and e.recorded_at = l.event_recorded_at);
    -- Null is no order to act.
    if p_dry_run is distinct from false then
        return coalesce(cardinality(v_delivery_ids), 0);
    end if;
    v_requeued := bridge.requeue(p_webhook_id, coalesce(v_delivery_ids, '{}'), p_per_second);
    perform bridge.audit('webhook.redelivered', p_webhook_id, null,
        jsonb_build_object('since', p_since, 'until', p_until, 'per_second', p_per_second, 'count', v_requeued));
    perform bridge.wake_couriers();
    return v_requeued;
end
$$;

COMMENT ON FUNCTION bridge.redeliver_failed(p_webhook_id bigint, p_since timestamp with time zone, p_until timestamp with time zone, p_dry_run boolean, p_per_second double precision) IS 'Sends again what a webhook failed to take in a range of time (by finished_at), so many a second, new deliveries first. With p_dry_run only counts. Returns how many.';

CREATE FUNCTION bridge.requeue(p_webhook_id bigint, p_delivery_ids bigint[], p_per_second double precision) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

COMMENT ON FUNCTION bridge.requeue(p_webhook_id bigint, p_delivery_ids bigint[], p_per_second double precision) IS 'Moves finished deliveries of a webhook from the log back to the queue, due one after the other at a rate, and returns how many. For redeliver and redeliver_failed.';

CREATE FUNCTION bridge.resume_webhook(p_webhook_id bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    update bridge.webhooks
    set is_active = true, disabled_reason = null, paused_at = null,
        probe_at = null, failing_since = null, failure_share = 0, updated_at = now()
    where id = p_webhook_id;
    if not found then
        raise 'there is no webhook %', p_webhook_id using errcode = 'no_data_found';
    end if;
    perform bridge.wake_couriers();
end
$$;

COMMENT ON FUNCTION bridge.resume_webhook(p_webhook_id bigint) IS 'Has a webhook deliver again at once, whatever it was that kept it: a pause, the breaker, or being switched off.';

CREATE FUNCTION bridge.ring() RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select pg_notify('bridge_outbox', '') where pg_sequence_last_value('bridge.doorbell') = 0
$$;

COMMENT ON FUNCTION bridge.ring() IS 'The doorbell: unless it is quiet, tells the drainer, at commit, that the outbox has something. To be called after the row was written: a transaction that saw "quiet" then has an xid, and the drainer waits for it before it stops polling. Triggers have the same condition written out, which is faster.';

CREATE FUNCTION bridge.take_note(p_topic text, p_key text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    delete from bridge.transaction_notes
    where xact = pg_current_xact_id_if_assigned() and topic = p_topic and key = p_key
    returning value
$$;

COMMENT ON FUNCTION bridge.take_note(p_topic text, p_key text) IS 'The note that the current transaction left, which is then gone; null if it left none.';

CREATE FUNCTION bridge.wake_couriers() RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select pg_notify('bridge_deliveries', '')
$$;

COMMENT ON FUNCTION bridge.wake_couriers() IS 'Has the bridges look for due deliveries at once, and not only at the next poll.';

CREATE TABLE bridge.activity (
    recorded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    bridge text NOT NULL,
    version text NOT NULL,
    seconds double precision NOT NULL,
    is_last boolean NOT NULL,
    clients integer NOT NULL,
    in_flight integer NOT NULL,
    clients_dropped bigint NOT NULL,
    events_drained bigint NOT NULL,
    events_streamed bigint NOT NULL,
    delivered bigint NOT NULL,
    retried bigint NOT NULL,
    failed bigint NOT NULL,
    commit_to_client bigint[],
    commit_to_acknowledged bigint[],
    CONSTRAINT activity_commit_to_acknowledged_whole CHECK ((cardinality(commit_to_acknowledged) = 21)),
    CONSTRAINT activity_commit_to_client_whole CHECK ((cardinality(commit_to_client) = 21)),
    CONSTRAINT activity_seconds_positive CHECK ((seconds > (0)::double precision))
);

COMMENT ON TABLE bridge.activity IS 'What each bridge did, one row for each process and ten seconds. A bridge whose newest row is not older than 30 s, and not its last, is running. Kept for 25 hours: 9,000 rows of at most 600 bytes for each process, so 6 MB with the index. Nothing but the bridges writes here, and no trigger reads it.';

COMMENT ON COLUMN bridge.activity.recorded_at IS 'When the row was written, by the database''s clock: the end of what it tells of.';

COMMENT ON COLUMN bridge.activity.bridge IS 'Its machine and process, host:pid, as in drainer.';

COMMENT ON COLUMN bridge.activity.version IS 'Of pgbridge.';

COMMENT ON COLUMN bridge.activity.seconds IS 'How long it tells of; more than ten if the database was away: what was counted then is in the row after it.';

COMMENT ON COLUMN bridge.activity.is_last IS 'The bridge has stopped in order; there is no row of it after this.';

COMMENT ON COLUMN bridge.activity.clients IS 'WebSocket clients that were connected at its end.';

COMMENT ON COLUMN bridge.activity.in_flight IS 'Deliveries that it held at its end: being sent, or about to be settled.';

COMMENT ON COLUMN bridge.activity.clients_dropped IS 'Clients that the bridge sent away or gave up.';

COMMENT ON COLUMN bridge.activity.events_drained IS 'Events moved from the outbox to the log.';

COMMENT ON COLUMN bridge.activity.events_streamed IS 'Events handed to clients: one event to ten clients is ten.';

COMMENT ON COLUMN bridge.activity.delivered IS 'Attempts at deliveries that succeeded.';

COMMENT ON COLUMN bridge.activity.retried IS 'Attempts that failed, and that another one follows.';

COMMENT ON COLUMN bridge.activity.failed IS 'Attempts that failed, and with which the delivery was given up.';

COMMENT ON COLUMN bridge.activity.commit_to_client IS 'Events by the time from their capture to when they were handed to the clients of this bridge; null: none. Element n counts those of more than bound n - 1 and at most bound n seconds; bounds are 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 3600, and none.';

COMMENT ON COLUMN bridge.activity.commit_to_acknowledged IS 'Successful deliveries by the time from the event''s commit to the receiver''s 2xx, counted alike.';

CREATE TABLE bridge.api_tokens (
    id bigint NOT NULL,
    name text NOT NULL,
    token_hash bytea NOT NULL,
    prefix text NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone,
    CONSTRAINT api_tokens_scopes_known CHECK ((((cardinality(scopes) >= 1) AND (cardinality(scopes) <= 100)) AND (array_position(scopes, NULL::text) IS NULL) AND (length(regexp_replace(array_to_string(scopes, ' '::text), '[^ ]'::text, ''::text, 'g'::text)) = (cardinality(scopes) - 1)) AND (array_to_string(scopes, ' '::text) ~ '^((events:read|webhooks:read|webhooks:write|admin|events:read:(\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?))( (?=.)|$))+$'::text)))
);

COMMENT ON TABLE bridge.api_tokens IS 'Tokens for REST and WebSocket. The token itself is shown once and not kept.';

COMMENT ON COLUMN bridge.api_tokens.token_hash IS 'SHA-256 of the token, which is 256 random bits: there is nothing to guess.';

COMMENT ON COLUMN bridge.api_tokens.prefix IS 'How the token begins, for people to recognise it by.';

COMMENT ON COLUMN bridge.api_tokens.scopes IS 'What it may do: events:read, events:read:ticket.* for events of some types, webhooks:read, webhooks:write, which includes webhooks:read, and admin, which includes all.';

COMMENT ON COLUMN bridge.api_tokens.last_used_at IS 'Written at most once a minute.';

ALTER TABLE bridge.api_tokens ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME bridge.api_tokens_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE bridge.audit_log (
    id bigint NOT NULL,
    changed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    action text NOT NULL,
    target_id bigint,
    target text,
    via text NOT NULL,
    actor text NOT NULL,
    address text,
    db_role text DEFAULT SESSION_USER NOT NULL,
    changes jsonb NOT NULL,
    CONSTRAINT audit_log_via_known CHECK ((via = ANY (ARRAY['api'::text, 'console'::text, 'cli'::text, 'sql'::text, 'bridge'::text])))
);

COMMENT ON TABLE bridge.audit_log IS 'Who changed what, and when: webhooks, tokens, rules of capture, redeliveries. Written by triggers in the transaction of the change, whichever way it came.';

COMMENT ON COLUMN bridge.audit_log.action IS 'What was done to what kind of thing: webhook.updated, token.created, delivery.redelivered.';

COMMENT ON COLUMN bridge.audit_log.target IS 'The name of the thing, as it was then.';

COMMENT ON COLUMN bridge.audit_log.via IS 'By which way: api; console; cli: a pgbridge command; sql: a session of somebody''s own; bridge: pgbridge run by itself, such as switching off what fails for days.';

COMMENT ON COLUMN bridge.audit_log.actor IS 'The token (its source, id and name) or, on a command line, user and machine: as the way says, which nobody checks. Who was logged in to the database is db_role.';

COMMENT ON COLUMN bridge.audit_log.address IS 'Where the request came from.';

COMMENT ON COLUMN bridge.audit_log.changes IS 'For each column that changed: {"from": …, "to": …}. Of secrets only whether there is one.';

ALTER TABLE bridge.audit_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME bridge.audit_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW bridge.backlog AS
SELECT
    NULL::bigint AS webhook_id,
    NULL::text AS name,
    NULL::bigint AS pending,
    NULL::bigint AS in_flight,
    NULL::bigint AS due,
    NULL::bigint AS waiting_for_retry,
    NULL::bigint AS redeliveries,
    NULL::timestamp with time zone AS oldest_created_at,
    NULL::double precision AS oldest_seconds,
    NULL::timestamp with time zone AS next_attempt_at;

COMMENT ON VIEW bridge.backlog IS 'What is still to be delivered, for each webhook.';

COMMENT ON COLUMN bridge.backlog.pending IS 'Deliveries that are not finished: in flight, due, waiting for a retry or for their turn.';

COMMENT ON COLUMN bridge.backlog.due IS 'Deliveries that could be sent now, if the webhook''s limits, pause and breaker allow.';

COMMENT ON COLUMN bridge.backlog.oldest_created_at IS 'When the oldest of them was enqueued. Redeliveries do not count: they are as old as their first time.';

COMMENT ON COLUMN bridge.backlog.oldest_seconds IS 'Seconds since oldest_created_at.';

CREATE TABLE bridge.capture_rules (
    name text NOT NULL,
    table_name text NOT NULL,
    trigger_name text NOT NULL,
    function_name text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL,
    trigger_sql text DEFAULT ''::text NOT NULL,
    function_sql text DEFAULT ''::text NOT NULL,
    trigger_definition text,
    function_definition text,
    paused_at timestamp with time zone,
    failure_count bigint DEFAULT 0 NOT NULL,
    last_failed_at timestamp with time zone,
    last_error text
);

COMMENT ON TABLE bridge.capture_rules IS 'The capture rules as they were applied: what the next init compares with, and what uninstall removes.';

COMMENT ON COLUMN bridge.capture_rules.table_name IS 'The application''s table, quoted and with its schema.';

COMMENT ON COLUMN bridge.capture_rules.trigger_sql IS 'The CREATE TRIGGER statement that was run.';

COMMENT ON COLUMN bridge.capture_rules.function_sql IS 'The CREATE FUNCTION statement of the rule at work.';

COMMENT ON COLUMN bridge.capture_rules.trigger_definition IS 'pg_get_triggerdef() of what was made: another answer now means that somebody changed it.';

COMMENT ON COLUMN bridge.capture_rules.function_definition IS 'pg_get_functiondef() of what was made, paused or at work.';

COMMENT ON COLUMN bridge.capture_rules.paused_at IS 'Since when it captures nothing, because somebody said so; null while it is at work. What happens meanwhile is never captured.';

COMMENT ON COLUMN bridge.capture_rules.failure_count IS 'Events of this rule, as it is applied now, whose payload could not be computed.';

COMMENT ON COLUMN bridge.capture_rules.last_error IS 'Why the last of them could not.';

CREATE UNLOGGED TABLE bridge.console_sessions (
    session_hash bytea NOT NULL,
    token_source text NOT NULL,
    token_id bigint,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT console_sessions_token_source_known CHECK ((token_source = ANY (ARRAY['bridge'::text, 'bot'::text, 'setting'::text])))
);

COMMENT ON TABLE bridge.console_sessions IS 'Browsers that are signed in to the console. Each may do what its token may, as long as that is valid. Unlogged: after a crash, people sign in again.';

COMMENT ON COLUMN bridge.console_sessions.session_hash IS 'SHA-256 of the cookie, which is 256 random bits; of a session of BRIDGE_TOKEN, a HMAC of that with a key made of BRIDGE_TOKEN, so that it ends with that.';

COMMENT ON COLUMN bridge.console_sessions.token_source IS 'Where the token is that somebody signed in with: bridge: api_tokens; bot: public.web_api_tokens; setting: BRIDGE_TOKEN.';

COMMENT ON COLUMN bridge.console_sessions.token_id IS 'Its id there: what it allows is looked up at every request. Null: setting.';

CREATE TABLE bridge.deleted_webhooks (
    id bigint NOT NULL,
    name text,
    url text,
    event_type text,
    deleted_at timestamp with time zone,
    delivered_count bigint NOT NULL,
    failed_count bigint NOT NULL
);

COMMENT ON TABLE bridge.deleted_webhooks IS 'Webhooks that are deleted and still have deliveries in the log: what they were, and how many those are. A row goes with the last of them. Null: deleted before this was kept.';

CREATE TABLE bridge.delivery_attempts (
    delivery_id bigint NOT NULL,
    webhook_id bigint NOT NULL,
    attempt_number integer NOT NULL,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone NOT NULL,
    response_status integer,
    response_body text,
    error_message text,
    failure text
)
PARTITION BY RANGE (finished_at);

COMMENT ON TABLE bridge.delivery_attempts IS 'Every HTTP attempt, one row each.';

COMMENT ON COLUMN bridge.delivery_attempts.started_at IS 'When it began to connect or to send, by the database''s clock.';

COMMENT ON COLUMN bridge.delivery_attempts.finished_at IS 'When the answer, or the failure, was complete.';

COMMENT ON COLUMN bridge.delivery_attempts.response_body IS 'First 16 KiB of the answer.';

COMMENT ON COLUMN bridge.delivery_attempts.error_message IS 'Why the attempt failed; null if it did not.';

COMMENT ON COLUMN bridge.delivery_attempts.failure IS 'What kind of failure: http_4xx, http_5xx, timeout_connect, dns, … (bridge/delivery/retry.py has the table); null if it succeeded.';

CREATE TABLE bridge.delivery_log (
    id bigint NOT NULL,
    webhook_id bigint NOT NULL,
    event_id bigint NOT NULL,
    event_recorded_at timestamp with time zone NOT NULL,
    event_type text NOT NULL,
    status text NOT NULL,
    attempt_number integer NOT NULL,
    response_status integer,
    response_body text,
    error_message text,
    created_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone DEFAULT now() NOT NULL,
    captured_at timestamp with time zone,
    committed_at timestamp with time zone,
    claimed_at timestamp with time zone,
    sent_at timestamp with time zone,
    acknowledged_at timestamp with time zone,
    CONSTRAINT delivery_log_status_known CHECK ((status = ANY (ARRAY['success'::text, 'failed'::text])))
)
PARTITION BY LIST (status);

COMMENT ON TABLE bridge.delivery_log IS 'Finished deliveries, one insert each. Partitioned by outcome and then by day, so that successes and failures are kept for different times.';

COMMENT ON COLUMN bridge.delivery_log.id IS 'The id that the delivery had in delivery_queue.';

COMMENT ON COLUMN bridge.delivery_log.status IS 'success: answered with 2xx. failed: given up.';

COMMENT ON COLUMN bridge.delivery_log.attempt_number IS 'Attempts made in all.';

COMMENT ON COLUMN bridge.delivery_log.response_body IS 'First 16 KiB of the last answer.';

COMMENT ON COLUMN bridge.delivery_log.captured_at IS 'events.occurred_at.';

COMMENT ON COLUMN bridge.delivery_log.committed_at IS 'When the event was committed: events.committed_at or, where that is not known, captured_at, which is a little earlier.';

COMMENT ON COLUMN bridge.delivery_log.claimed_at IS 'When a courier took it for its last attempt.';

COMMENT ON COLUMN bridge.delivery_log.sent_at IS 'When the last attempt began, by the database''s clock.';

COMMENT ON COLUMN bridge.delivery_log.acknowledged_at IS 'When the receiver''s 2xx had arrived, by the database''s clock; null if it never did.';

CREATE TABLE bridge.delivery_log_failed (
    id bigint CONSTRAINT delivery_log_id_not_null NOT NULL,
    webhook_id bigint CONSTRAINT delivery_log_webhook_id_not_null NOT NULL,
    event_id bigint CONSTRAINT delivery_log_event_id_not_null NOT NULL,
    event_recorded_at timestamp with time zone CONSTRAINT delivery_log_event_recorded_at_not_null NOT NULL,
    event_type text CONSTRAINT delivery_log_event_type_not_null NOT NULL,
    status text CONSTRAINT delivery_log_status_not_null NOT NULL,
    attempt_number integer CONSTRAINT delivery_log_attempt_number_not_null NOT NULL,
    response_status integer,
    response_body text,
    error_message text,
    created_at timestamp with time zone CONSTRAINT delivery_log_created_at_not_null NOT NULL,
    finished_at timestamp with time zone DEFAULT now() CONSTRAINT delivery_log_finished_at_not_null NOT NULL,
    captured_at timestamp with time zone,
    committed_at timestamp with time zone,
    claimed_at timestamp with time zone,
    sent_at timestamp with time zone,
    acknowledged_at timestamp with time zone,
    CONSTRAINT delivery_log_status_known CHECK ((status = ANY (ARRAY['success'::text, 'failed'::text])))
)
PARTITION BY RANGE (finished_at);

COMMENT ON TABLE bridge.delivery_log_failed IS 'Deliveries that were given up, by day.';

CREATE TABLE bridge.delivery_log_success (
    id bigint CONSTRAINT delivery_log_id_not_null NOT NULL,
    webhook_id bigint CONSTRAINT delivery_log_webhook_id_not_null NOT NULL,
    event_id bigint CONSTRAINT delivery_log_event_id_not_null NOT NULL,
    event_recorded_at timestamp with time zone CONSTRAINT delivery_log_event_recorded_at_not_null NOT NULL,
    event_type text CONSTRAINT delivery_log_event_type_not_null NOT NULL,
    status text CONSTRAINT delivery_log_status_not_null NOT NULL,
    attempt_number integer CONSTRAINT delivery_log_attempt_number_not_null NOT NULL,
    response_status integer,
    response_body text,
    error_message text,
    created_at timestamp with time zone CONSTRAINT delivery_log_created_at_not_null NOT NULL,
    finished_at timestamp with time zone DEFAULT now() CONSTRAINT delivery_log_finished_at_not_null NOT NULL,
    captured_at timestamp with time zone,
    committed_at timestamp with time zone,
    claimed_at timestamp with time zone,
    sent_at timestamp with time zone,
    acknowledged_at timestamp with time zone,
    CONSTRAINT delivery_log_status_known CHECK ((status = ANY (ARRAY['success'::text, 'failed'::text])))
)
PARTITION BY RANGE (finished_at);

COMMENT ON TABLE bridge.delivery_log_success IS 'Successful deliveries, by day.';

CREATE TABLE bridge.delivery_queue (
    id bigint NOT NULL,
    webhook_id bigint NOT NULL,
    event_id bigint NOT NULL,
    event_recorded_at timestamp with time zone NOT NULL,
    event_type text NOT NULL,
    attempt_number integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    next_attempt_at timestamp with time zone DEFAULT now() NOT NULL,
    leased_until timestamp with time zone,
    lease_token uuid,
    response_status integer,
    response_body text,
    error_message text,
    captured_at timestamp with time zone,
    committed_at timestamp with time zone,
    claimed_at timestamp with time zone,
    attempts_before integer DEFAULT 0 NOT NULL,
    is_redelivery boolean DEFAULT false NOT NULL,
    CONSTRAINT delivery_queue_lease_whole CHECK (((leased_until IS NULL) = (lease_token IS NULL)))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='2000');

COMMENT ON TABLE bridge.delivery_queue IS 'Deliveries that are not finished, one row each: enqueued by the drain, leased by a courier, removed when settled.';

COMMENT ON COLUMN bridge.delivery_queue.event_recorded_at IS 'With event_id, the row of the event log in one partition.';

COMMENT ON COLUMN bridge.delivery_queue.attempt_number IS 'Attempts made so far.';

COMMENT ON COLUMN bridge.delivery_queue.next_attempt_at IS 'Not before this time.';

COMMENT ON COLUMN bridge.delivery_queue.leased_until IS 'A courier is working on it until then at the latest; past it, anyone may take it. Null: free.';

COMMENT ON COLUMN bridge.delivery_queue.lease_token IS 'Names the lease: a result is accepted only from the courier whose token is still here.';

COMMENT ON COLUMN bridge.delivery_queue.response_status IS 'Of the last attempt.';

COMMENT ON COLUMN bridge.delivery_queue.captured_at IS 'events.occurred_at.';

COMMENT ON COLUMN bridge.delivery_queue.committed_at IS 'When the event was committed: events.committed_at or, where that is not known, captured_at, which is a little earlier.';

COMMENT ON COLUMN bridge.delivery_queue.claimed_at IS 'When a courier took it for its last attempt.';

COMMENT ON COLUMN bridge.delivery_queue.attempts_before IS 'Attempts made before it was redelivered: the retry schedule begins anew after them.';

COMMENT ON COLUMN bridge.delivery_queue.is_redelivery IS 'Put back by redeliver: what is new goes first.';

ALTER TABLE bridge.delivery_queue ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME bridge.delivery_queue_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE SEQUENCE bridge.doorbell
    AS smallint
    START WITH 0
    INCREMENT BY 1
    MINVALUE 0
    MAXVALUE 1
    CACHE 1;

COMMENT ON SEQUENCE bridge.doorbell IS 'Whether triggers ring: last_value 0 ring, 1 quiet. A sequence because setting it waits for no commit and reading it (pg_sequence_last_value) costs one look at a buffer. Quiet until a bridge drains.';

CREATE TABLE bridge.drainer (
    is_only boolean DEFAULT true NOT NULL,
    bridge text NOT NULL,
    mode text NOT NULL,
    is_quiet boolean NOT NULL,
    switches bigint DEFAULT 0 NOT NULL,
    switched_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    leading_since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT drainer_is_only CHECK (is_only),
    CONSTRAINT drainer_mode_known CHECK ((mode = ANY (ARRAY['adaptive'::text, 'notify'::text, 'poll'::text])))
);

COMMENT ON TABLE bridge.drainer IS 'The bridge that drains, or drained last: one row. Whether it still does, leader_pid() tells.';

COMMENT ON COLUMN bridge.drainer.is_only IS 'Always true: there is one row.';

COMMENT ON COLUMN bridge.drainer.bridge IS 'Its machine and process, host:pid.';

COMMENT ON COLUMN bridge.drainer.mode IS 'BRIDGE_DOORBELL. adaptive: rings when events are rare, polls when they are many. notify: always rings. poll: never rings.';

COMMENT ON COLUMN bridge.drainer.is_quiet IS 'What it set the doorbell to.';

COMMENT ON COLUMN bridge.drainer.switches IS 'How often it has switched the doorbell since leading_since.';

COMMENT ON COLUMN bridge.drainer.switched_at IS 'When it set the doorbell last.';

CREATE TABLE bridge.events (
    id bigint NOT NULL,
    event_type text NOT NULL,
    payload jsonb NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    committed_at timestamp with time zone
)
PARTITION BY RANGE (recorded_at);

COMMENT ON TABLE bridge.events IS 'The log of events, in commit order by id. Never updated; retired by dropping whole days.';

COMMENT ON COLUMN bridge.events.occurred_at IS 'When the trigger fired: at the application''s statement or, for a deferred rule, at its commit.';

COMMENT ON COLUMN bridge.events.recorded_at IS 'When the drain moved the event from the outbox to this log.';

COMMENT ON COLUMN bridge.events.committed_at IS 'When the application''s transaction was committed, if the server has track_commit_timestamp on; else null.';

CREATE SEQUENCE bridge.event_id
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE bridge.event_id OWNED BY bridge.events.id;

COMMENT ON SEQUENCE bridge.event_id IS 'Ids of the log, given by the one drainer: their order is the order in which commits became visible.';

CREATE TABLE bridge.leader (
    is_only boolean DEFAULT true NOT NULL,
    pid integer NOT NULL,
    role_id oid NOT NULL,
    lock_key bigint NOT NULL,
    CONSTRAINT leader_is_only CHECK (is_only)
);

COMMENT ON TABLE bridge.leader IS 'The session that may drain: one row, written by lead(). It does for as long as the session of this pid and role holds the advisory lock with this key. Others see the key and may wait for the lock, but none of them is the session that is named here.';

COMMENT ON COLUMN bridge.leader.is_only IS 'Always true: there is one row.';

COMMENT ON COLUMN bridge.leader.role_id IS 'The role that has logged in (pg_roles.oid): a process id is given out again, to strangers, too.';

COMMENT ON COLUMN bridge.leader.lock_key IS 'Random, and another for every leader: nobody can have taken the lock before.';

CREATE TABLE bridge.migrations (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE bridge.migrations IS 'Which migrations this schema has had, in order.';

COMMENT ON COLUMN bridge.migrations.checksum IS 'SHA-256 of the file: a released file is never edited.';

CREATE TABLE bridge.outbox (
    id bigint NOT NULL,
    event_type text NOT NULL,
    payload jsonb NOT NULL,
    captured_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='2000', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='1000000');

COMMENT ON TABLE bridge.outbox IS 'Queue of captured events: written by triggers, emptied by the drain. Normally almost empty.';

COMMENT ON COLUMN bridge.outbox.id IS 'In order of writing, which is not the order of commits: a smaller id may become visible later.';

COMMENT ON COLUMN bridge.outbox.payload IS 'jsonb rather than json, so that text which jsonb refuses fails in the trigger''s guard and not in the drain.';

COMMENT ON COLUMN bridge.outbox.captured_at IS 'Wall-clock time at which the trigger fired.';

ALTER TABLE bridge.outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME bridge.outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE bridge.partitioned_logs (
    parent text NOT NULL
);

COMMENT ON TABLE bridge.partitioned_logs IS 'Which tables of this schema are partitioned by UTC day.';

CREATE TABLE bridge.redelivery_lock (
);

COMMENT ON TABLE bridge.redelivery_lock IS 'Has no rows: it is only locked. In row exclusive mode by what is redelivered (any number at once), in share row exclusive mode by who drops a partition (nobody else then). INSERT is the right that the first takes.';

CREATE UNLOGGED TABLE bridge.transaction_notes (
    xact xid8 DEFAULT pg_current_xact_id() NOT NULL,
    topic text NOT NULL,
    key text NOT NULL,
    value jsonb NOT NULL
);

COMMENT ON TABLE bridge.transaction_notes IS 'What one rule leaves for another within the same transaction, such as "this ticket was opened here". Unlogged: a note means nothing once its transaction has ended, and a crash ends them all. Upkeep deletes old ones.';

COMMENT ON COLUMN bridge.transaction_notes.xact IS 'The transaction that wrote the note, and the only one that reads it.';

CREATE VIEW bridge.webhook_deliveries AS
 SELECT q.id,
    q.webhook_id,
    q.event_type,
    e.payload,
    q.response_status,
    q.response_body,
    'pending'::text AS status,
    q.error_message,
    q.attempt_number,
    q.created_at,
    NULL::timestamp with time zone AS delivered_at,
        CASE
            WHEN (q.attempt_number > 0) THEN q.next_attempt_at
            ELSE NULL::timestamp with time zone
        END AS next_retry_at,
    q.event_id,
    q.committed_at,
    q.captured_at,
    q.claimed_at,
    NULL::timestamp with time zone AS sent_at,
    NULL::timestamp with time zone AS acknowledged_at,
    NULL::timestamp with time zone AS finished_at
   FROM (bridge.delivery_queue q
     LEFT JOIN bridge.events e ON (((e.id = q.event_id) AND (e.recorded_at = q.event_recorded_at))))
UNION ALL
 SELECT l.id,
    l.webhook_id,
    l.event_type,
    e.payload,
    l.response_status,
    l.response_body,
    l.status,
    l.error_message,
    l.attempt_number,
    l.created_at,
        CASE
            WHEN (l.status = 'success'::text) THEN l.finished_at
            ELSE NULL::timestamp with time zone
        END AS delivered_at,
    NULL::timestamp with time zone AS next_retry_at,
    l.event_id,
    l.committed_at,
    l.captured_at,
    l.claimed_at,
    l.sent_at,
    l.acknowledged_at,
    l.finished_at
   FROM (bridge.delivery_log l
     LEFT JOIN bridge.events e ON (((e.id = l.event_id) AND (e.recorded_at = l.event_recorded_at))));

COMMENT ON VIEW bridge.webhook_deliveries IS 'Every delivery, pending or finished. status: pending (queued, in flight or waiting for a retry), success, failed.';

COMMENT ON COLUMN bridge.webhook_deliveries.committed_at IS 'When the event was committed, or captured where the server does not track commit timestamps.';

COMMENT ON COLUMN bridge.webhook_deliveries.captured_at IS 'When the trigger fired.';

COMMENT ON COLUMN bridge.webhook_deliveries.claimed_at IS 'When a courier took it for its last attempt.';

COMMENT ON COLUMN bridge.webhook_deliveries.sent_at IS 'When the last attempt began; null while pending.';

COMMENT ON COLUMN bridge.webhook_deliveries.acknowledged_at IS 'When the receiver''s 2xx had arrived.';

COMMENT ON COLUMN bridge.webhook_deliveries.finished_at IS 'When it succeeded or was given up; null while pending. By it the days of the log are kept, and redeliver_failed chooses.';

CREATE TABLE bridge.webhooks (
    id bigint NOT NULL,
    name text NOT NULL,
    url text NOT NULL,
    event_type text NOT NULL,
    secret text,
    description text,
    is_active boolean DEFAULT true NOT NULL,
    disabled_reason text,
    timeout_seconds integer DEFAULT 15 NOT NULL,
    max_concurrency integer DEFAULT 4 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    last_triggered_at timestamp with time zone,
    success_count bigint DEFAULT 0 NOT NULL,
    failure_count bigint DEFAULT 0 NOT NULL,
    filter jsonpath,
    rate_per_second double precision,
    ordered boolean DEFAULT false NOT NULL,
    retry_schedule double precision[],
    previous_secret text,
    previous_secret_expires_at timestamp with time zone,
    paused_at timestamp with time zone,
    failure_share real DEFAULT 0 NOT NULL,
    failing_since timestamp with time zone,
    probe_at timestamp with time zone,
    paced_until timestamp with time zone,
    delivered_count bigint DEFAULT 0 NOT NULL,
    failed_count bigint DEFAULT 0 NOT NULL,
    CONSTRAINT webhooks_failure_share_range CHECK (((failure_share >= (0)::double precision) AND (failure_share <= (1)::double precision))),
    CONSTRAINT webhooks_filter_bounded CHECK ((regexp_replace((filter)::text, '"([^"\\]|\\.)*"'::text, '""'::text, 'g'::text) !~ '\*\*|\?.*\?'::text)),
    CONSTRAINT webhooks_filter_without_back_references CHECK (((filter)::text !~ 'like_regex "([^"\\]|\\[^\\]|\\\\([^"\\]|\\.))*\\\\[1-9]'::text)),
    CONSTRAINT webhooks_filter_without_variables CHECK ((regexp_replace((filter)::text, '"([^"\\]|\\.)*"'::text, '""'::text, 'g'::text) !~~ '%$""%'::text)),
    CONSTRAINT webhooks_max_concurrency_range CHECK (((max_concurrency >= 1) AND (max_concurrency <= 1000))),
    CONSTRAINT webhooks_previous_secret_whole CHECK ((((previous_secret IS NULL) = (previous_secret_expires_at IS NULL)) AND (previous_secret <> ''::text))),
    CONSTRAINT webhooks_rate_per_second_range CHECK (((rate_per_second >= (0.001)::double precision) AND (rate_per_second <= (100000)::double precision))),
    CONSTRAINT webhooks_retry_schedule_range CHECK ((((cardinality(retry_schedule) >= 1) AND (cardinality(retry_schedule) <= 100)) AND (array_ndims(retry_schedule) = 1) AND (array_position(retry_schedule, NULL::double precision) IS NULL) AND ((0)::double precision <= ALL (retry_schedule)) AND ((2592000)::double precision >= ALL (retry_schedule)))),
    CONSTRAINT webhooks_secret_not_empty CHECK ((secret <> ''::text)),
    CONSTRAINT webhooks_timeout_seconds_range CHECK (((timeout_seconds >= 1) AND (timeout_seconds <= 120)))
)
WITH (fillfactor='50');

COMMENT ON TABLE bridge.webhooks IS 'Where events go: one row is one receiver of one event type or pattern.';

COMMENT ON COLUMN bridge.webhooks.event_type IS 'An exact type (ticket.created) or a pattern (ticket.*, *).';

COMMENT ON COLUMN bridge.webhooks.secret IS 'Key of the signatures; without one, requests are not signed. Encrypted if it begins with fernet:.';

COMMENT ON COLUMN bridge.webhooks.is_active IS 'Only active webhooks get new deliveries. What is queued for one that is switched off is kept, and sent once it is switched on.';

COMMENT ON COLUMN bridge.webhooks.disabled_reason IS 'Why the bridge itself set is_active to false; null if it did not.';

COMMENT ON COLUMN bridge.webhooks.timeout_seconds IS 'Deadline of one whole attempt, from connecting to the end of the answer.';

COMMENT ON COLUMN bridge.webhooks.max_concurrency IS 'Most attempts that one bridge has in flight to this webhook.';

COMMENT ON COLUMN bridge.webhooks.last_triggered_at IS 'When the last attempt ended.';

COMMENT ON COLUMN bridge.webhooks.success_count IS 'Attempts that were answered with 2xx, ever.';

COMMENT ON COLUMN bridge.webhooks.failure_count IS 'Attempts that were not, ever.';

COMMENT ON COLUMN bridge.webhooks.filter IS 'jsonpath predicate on the payload, such as $.amount_kopeks >= 100000: only events for which it is true are delivered. An error in it means no. $ ? (…) is no predicate: it is never true. At most one ? (…), no ** and no back-reference (\1) in like_regex, so that it is evaluated fast.';

COMMENT ON COLUMN bridge.webhooks.rate_per_second IS 'Most attempts a second, over all bridges; a second''s worth may go at once. Null: no limit.';

COMMENT ON COLUMN bridge.webhooks.ordered IS 'One attempt at a time, in the order of events: each waits until the one before has succeeded or was given up.';

COMMENT ON COLUMN bridge.webhooks.retry_schedule IS 'Seconds to wait before each attempt, the first included; as many attempts are made as there are. Null: BRIDGE_RETRY_SCHEDULE.';

COMMENT ON COLUMN bridge.webhooks.previous_secret IS 'The key before the last rotation: requests are signed with both until previous_secret_expires_at.';

COMMENT ON COLUMN bridge.webhooks.paused_at IS 'Since when its deliveries wait; null: they do not. Unlike one that is switched off, a paused webhook gets new deliveries, which wait, too.';

COMMENT ON COLUMN bridge.webhooks.failure_share IS 'Which share of the last attempts failed, about ten of them: each attempt weighs a tenth, what was before nine tenths. The larger, the fewer attempts are in flight at once.';

COMMENT ON COLUMN bridge.webhooks.failing_since IS 'Start of the first failed attempt since the last success; null: the last attempt succeeded, or there was none.';

COMMENT ON COLUMN bridge.webhooks.probe_at IS 'The breaker. Null: closed. Otherwise it is open: deliveries wait, and from then on one is tried, to see whether the receiver is back.';

COMMENT ON COLUMN bridge.webhooks.paced_until IS 'With rate_per_second: until when the rate is used up by what was claimed; null: nothing was yet.';

COMMENT ON COLUMN bridge.webhooks.delivered_count IS 'Deliveries in the log that succeeded. Kept by settle, requeue and drop_expired_partition, so that nobody has to count the log.';

COMMENT ON COLUMN bridge.webhooks.failed_count IS 'Deliveries in the log that were given up.';

CREATE VIEW bridge.webhook_health AS
 SELECT w.id AS webhook_id,
    w.name,
        CASE
            WHEN ((NOT w.is_active) AND (w.disabled_reason IS NOT NULL)) THEN 'disabled'::text
            WHEN (NOT w.is_active) THEN 'off'::text
            WHEN (w.paused_at IS NOT NULL) THEN 'paused'::text
            WHEN (w.probe_at IS NOT NULL) THEN 'failing'::text
            ELSE 'delivering'::text
        END AS state,
    w.disabled_reason,
    w.failing_since,
    w.probe_at,
    w.failure_share,
    b.pending,
    b.due,
    b.oldest_created_at AS oldest_pending_at,
    b.oldest_seconds AS oldest_pending_seconds,
    COALESCE(a.attempts_hour, (0)::bigint) AS attempts_hour,
    COALESCE(a.attempts_day, (0)::bigint) AS attempts_day,
    a.success_rate_hour,
    a.success_rate_day,
    d.commit_to_acknowledged_p50_hour,
    d.commit_to_acknowledged_p95_hour,
    d.commit_to_acknowledged_p50_day,
    d.commit_to_acknowledged_p95_day,
    a.answer_p50_hour,
    a.answer_p95_hour,
    a.answer_p50_day,
    a.answer_p95_day
   FROM (((bridge.webhooks w
     JOIN bridge.backlog b ON ((b.webhook_id = w.id)))
     LEFT JOIN ( SELECT attempt.webhook_id,
            count(*) FILTER (WHERE attempt.is_recent) AS attempts_hour,
            count(*) AS attempts_day,
            round(((100.0 * (count(*) FILTER (WHERE (attempt.is_recent AND attempt.succeeded)))::numeric) / (NULLIF(count(*) FILTER (WHERE attempt.is_recent), 0))::numeric), 2) AS success_rate_hour,
            round(((100.0 * (count(*) FILTER (WHERE attempt.succeeded))::numeric) / (count(*))::numeric), 2) AS success_rate_day,
            percentile_cont((0.5)::double precision) WITHIN GROUP (ORDER BY attempt.seconds) FILTER (WHERE attempt.is_recent) AS answer_p50_hour,
            percentile_cont((0.95)::double precision) WITHIN GROUP (ORDER BY attempt.seconds) FILTER (WHERE attempt.is_recent) AS answer_p95_hour,
            percentile_cont((0.5)::double precision) WITHIN GROUP (ORDER BY attempt.seconds) AS answer_p50_day,
            percentile_cont((0.95)::double precision) WITHIN GROUP (ORDER BY attempt.seconds) AS answer_p95_day
           FROM ( SELECT delivery_attempts.webhook_id,
                    (delivery_attempts.finished_at > (now() - '01:00:00'::interval)) AS is_recent,
                    (delivery_attempts.error_message IS NULL) AS succeeded,
                    (EXTRACT(epoch FROM (delivery_attempts.finished_at - delivery_attempts.started_at)))::double precision AS seconds
                   FROM bridge.delivery_attempts
                  WHERE (delivery_attempts.finished_at > (now() - '1 day'::interval))) attempt
          GROUP BY attempt.webhook_id) a ON ((a.webhook_id = w.id)))
     LEFT JOIN ( SELECT delivery.webhook_id,
            percentile_cont((0.5)::double precision) WITHIN GROUP (ORDER BY delivery.seconds) FILTER (WHERE delivery.is_recent) AS commit_to_acknowledged_p50_hour,
            percentile_cont((0.95)::double precision) WITHIN GROUP (ORDER BY delivery.seconds) FILTER (WHERE delivery.is_recent) AS commit_to_acknowledged_p95_hour,
            percentile_cont((0.5)::double precision) WITHIN GROUP (ORDER BY delivery.seconds) AS commit_to_acknowledged_p50_day,
            percentile_cont((0.95)::double precision) WITHIN GROUP (ORDER BY delivery.seconds) AS commit_to_acknowledged_p95_day
           FROM ( SELECT delivery_log.webhook_id,
                    (delivery_log.finished_at > (now() - '01:00:00'::interval)) AS is_recent,
                    (EXTRACT(epoch FROM (delivery_log.acknowledged_at - delivery_log.committed_at)))::double precision AS seconds
                   FROM bridge.delivery_log
                  WHERE ((delivery_log.status = 'success'::text) AND (delivery_log.finished_at > (now() - '1 day'::interval)))) delivery
          GROUP BY delivery.webhook_id) d ON ((d.webhook_id = w.id)));

COMMENT ON VIEW bridge.webhook_health IS 'How each webhook does: its state, what waits for it, and its last hour and day. Rates are percent of attempts; times are seconds.';

COMMENT ON COLUMN bridge.webhook_health.state IS 'delivering; failing: the breaker is open and one delivery is tried at probe_at; paused: by pause_webhook; disabled: switched off by the bridge, see disabled_reason; off: switched off by somebody.';

COMMENT ON COLUMN bridge.webhook_health.commit_to_acknowledged_p95_hour IS 'Seconds from the application''s commit to the receiver''s 2xx, retries and waiting included.';

COMMENT ON COLUMN bridge.webhook_health.answer_p95_hour IS 'Seconds an attempt takes, failed ones included: what the receiver and the way to it are like.';

ALTER TABLE bridge.webhooks ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME bridge.webhooks_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE UNLOGGED TABLE bridge.ws_tickets (
    ticket_hash bytea NOT NULL,
    token_source text NOT NULL,
    token_id bigint,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT ws_tickets_token_source_known CHECK ((token_source = ANY (ARRAY['bridge'::text, 'bot'::text, 'setting'::text])))
);

COMMENT ON TABLE bridge.ws_tickets IS 'Tickets that open one WebSocket each, within seconds, so that no URL has a token in it. Unlogged: after a crash, clients ask for another.';

COMMENT ON COLUMN bridge.ws_tickets.ticket_hash IS 'SHA-256 of the ticket, which is 256 random bits; of a ticket of BRIDGE_TOKEN, a HMAC of that with a key made of BRIDGE_TOKEN, so that it ends with that.';

COMMENT ON COLUMN bridge.ws_tickets.token_source IS 'Where the token is that the ticket was got with: bridge: api_tokens; bot: public.web_api_tokens; setting: BRIDGE_TOKEN.';

COMMENT ON COLUMN bridge.ws_tickets.token_id IS 'Its id there: what it allows is looked up when the ticket is used. Null: setting.';

ALTER TABLE ONLY bridge.delivery_log ATTACH PARTITION bridge.delivery_log_failed FOR VALUES IN ('failed');

ALTER TABLE ONLY bridge.delivery_log ATTACH PARTITION bridge.delivery_log_success FOR VALUES IN ('success');

ALTER TABLE ONLY bridge.events ALTER COLUMN id SET DEFAULT nextval('bridge.event_id'::regclass);

ALTER TABLE ONLY bridge.activity
    ADD CONSTRAINT activity_pkey PRIMARY KEY (recorded_at, bridge);

ALTER TABLE ONLY bridge.api_tokens
    ADD CONSTRAINT api_tokens_pkey PRIMARY KEY (id);

ALTER TABLE ONLY bridge.api_tokens
    ADD CONSTRAINT api_tokens_token_hash_key UNIQUE (token_hash);

ALTER TABLE ONLY bridge.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);

ALTER TABLE ONLY bridge.capture_rules
    ADD CONSTRAINT capture_rules_pkey PRIMARY KEY (name);

ALTER TABLE ONLY bridge.console_sessions
    ADD CONSTRAINT console_sessions_pkey PRIMARY KEY (session_hash);

ALTER TABLE ONLY bridge.deleted_webhooks
    ADD CONSTRAINT deleted_webhooks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY bridge.delivery_log
    ADD CONSTRAINT delivery_log_pkey PRIMARY KEY (id, status, finished_at);

ALTER TABLE ONLY bridge.delivery_log_failed
    ADD CONSTRAINT delivery_log_failed_pkey PRIMARY KEY (id, status, finished_at);

ALTER TABLE ONLY bridge.delivery_log_success
    ADD CONSTRAINT delivery_log_success_pkey PRIMARY KEY (id, status, finished_at);

ALTER TABLE ONLY bridge.delivery_queue
    ADD CONSTRAINT delivery_queue_pkey PRIMARY KEY (id);

ALTER TABLE ONLY bridge.drainer
    ADD CONSTRAINT drainer_pkey PRIMARY KEY (is_only);

ALTER TABLE ONLY bridge.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (id, recorded_at);

ALTER TABLE ONLY bridge.leader
    ADD CONSTRAINT leader_pkey PRIMARY KEY (is_only);

ALTER TABLE ONLY bridge.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY bridge.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY bridge.partitioned_logs
    ADD CONSTRAINT partitioned_logs_pkey PRIMARY KEY (parent);

ALTER TABLE ONLY bridge.transaction_notes
    ADD CONSTRAINT transaction_notes_pkey PRIMARY KEY (xact, topic, key);

ALTER TABLE ONLY bridge.webhooks
    ADD CONSTRAINT webhooks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY bridge.ws_tickets
    ADD CONSTRAINT ws_tickets_pkey PRIMARY KEY (ticket_hash);

COMMENT ON INDEX bridge.activity_pkey IS 'running_bridges, activity: the newest rows. forget_activity: the oldest.';

COMMENT ON INDEX bridge.api_tokens_token_hash_key IS 'authenticate: the token that a request brings.';

CREATE INDEX audit_log_changed_at ON bridge.audit_log USING brin (changed_at);

COMMENT ON INDEX bridge.audit_log_changed_at IS 'forget_audit: what is too old.';

COMMENT ON INDEX bridge.audit_log_pkey IS 'list_audit: the newest first.';

CREATE INDEX console_sessions_expiry ON bridge.console_sessions USING btree (expires_at);

COMMENT ON INDEX bridge.console_sessions_expiry IS 'create_session: those that are over.';

COMMENT ON INDEX bridge.console_sessions_pkey IS 'use_session: the cookie that a browser brings.';

CREATE INDEX delivery_attempts_delivery ON ONLY bridge.delivery_attempts USING btree (delivery_id, attempt_number);

COMMENT ON INDEX bridge.delivery_attempts_delivery IS 'The attempts of one delivery, in order.';

CREATE INDEX delivery_attempts_time ON ONLY bridge.delivery_attempts USING brin (finished_at) WITH (pages_per_range='32');

COMMENT ON INDEX bridge.delivery_attempts_time IS 'webhook_health: the attempts of the last hour.';

CREATE INDEX delivery_log_time ON ONLY bridge.delivery_log USING brin (finished_at) WITH (pages_per_range='32');

COMMENT ON INDEX bridge.delivery_log_time IS 'webhook_health: what was finished in the last hour.';

CREATE INDEX delivery_log_failed_finished_at_idx ON ONLY bridge.delivery_log_failed USING brin (finished_at) WITH (pages_per_range='32');

COMMENT ON INDEX bridge.delivery_log_pkey IS 'webhook_deliveries: one delivery by id.';

CREATE INDEX delivery_log_webhook ON ONLY bridge.delivery_log USING btree (webhook_id, id);

COMMENT ON INDEX bridge.delivery_log_webhook IS 'list_deliveries: a webhook''s deliveries, newest first.';

CREATE INDEX delivery_log_failed_webhook_id_id_idx ON ONLY bridge.delivery_log_failed USING btree (webhook_id, id);

CREATE INDEX delivery_log_success_finished_at_idx ON ONLY bridge.delivery_log_success USING brin (finished_at) WITH (pages_per_range='32');

CREATE INDEX delivery_log_success_webhook_id_id_idx ON ONLY bridge.delivery_log_success USING btree (webhook_id, id);

CREATE INDEX delivery_queue_due ON bridge.delivery_queue USING btree (webhook_id, is_redelivery, next_attempt_at, id);

COMMENT ON INDEX bridge.delivery_queue_due IS 'claim: a webhook''s deliveries that are due, oldest first, what is new before redeliveries.';

CREATE INDEX delivery_queue_order ON bridge.delivery_queue USING btree (webhook_id, id);

COMMENT ON INDEX bridge.delivery_queue_order IS 'claim: the first delivery of an ordered webhook. list_deliveries: a webhook''s deliveries, newest first.';

COMMENT ON INDEX bridge.events_pkey IS 'events_since: everything after an id. Deliveries find their payload by id and recorded_at, in one partition.';

COMMENT ON INDEX bridge.outbox_pkey IS 'drain: the next ids above the mark, and single ids below it.';

COMMENT ON INDEX bridge.transaction_notes_pkey IS 'noted(): one note of the current transaction.';

CREATE INDEX webhooks_active_event_type ON bridge.webhooks USING btree (event_type) WHERE is_active;

COMMENT ON INDEX bridge.webhooks_active_event_type IS 'drain: who takes an event of this type.';

CREATE INDEX ws_tickets_expiry ON bridge.ws_tickets USING btree (expires_at);

COMMENT ON INDEX bridge.ws_tickets_expiry IS 'create_ticket: those that nobody has used in time.';

COMMENT ON INDEX bridge.ws_tickets_pkey IS 'use_ticket: the ticket that a client brings.';

ALTER INDEX bridge.delivery_log_time ATTACH PARTITION bridge.delivery_log_failed_finished_at_idx;

ALTER INDEX bridge.delivery_log_pkey ATTACH PARTITION bridge.delivery_log_failed_pkey;

ALTER INDEX bridge.delivery_log_webhook ATTACH PARTITION bridge.delivery_log_failed_webhook_id_id_idx;

ALTER INDEX bridge.delivery_log_time ATTACH PARTITION bridge.delivery_log_success_finished_at_idx;

ALTER INDEX bridge.delivery_log_pkey ATTACH PARTITION bridge.delivery_log_success_pkey;

ALTER INDEX bridge.delivery_log_webhook ATTACH PARTITION bridge.delivery_log_success_webhook_id_id_idx;

CREATE OR REPLACE VIEW bridge.backlog AS
 SELECT w.id AS webhook_id,
    w.name,
    count(q.id) AS pending,
    count(q.id) FILTER (WHERE (q.leased_until > now())) AS in_flight,
    count(q.id) FILTER (WHERE ((q.next_attempt_at <= now()) AND ((q.leased_until IS NULL) OR (q.leased_until <= now())))) AS due,
    count(q.id) FILTER (WHERE ((q.next_attempt_at > now()) AND (q.attempt_number > 0))) AS waiting_for_retry,
    count(q.id) FILTER (WHERE q.is_redelivery) AS redeliveries,
    min(q.created_at) FILTER (WHERE (NOT q.is_redelivery)) AS oldest_created_at,
    (EXTRACT(epoch FROM (now() - min(q.created_at) FILTER (WHERE (NOT q.is_redelivery)))))::double precision AS oldest_seconds,
    min(q.next_attempt_at) AS next_attempt_at
   FROM (bridge.webhooks w
     LEFT JOIN bridge.delivery_queue q ON ((q.webhook_id = w.id)))
  GROUP BY w.id;

CREATE TRIGGER audit_change AFTER INSERT OR DELETE OR UPDATE OF name, scopes, expires_at, revoked_at, token_hash ON bridge.api_tokens FOR EACH ROW EXECUTE FUNCTION bridge.audit_change('token', 'name prefix scopes expires_at revoked_at', 'token_hash');

CREATE TRIGGER audit_change AFTER INSERT OR DELETE OR UPDATE OF table_name, trigger_sql, function_sql, paused_at ON bridge.capture_rules FOR EACH ROW EXECUTE FUNCTION bridge.audit_change('rule', 'table_name trigger_sql function_sql paused_at', '');

CREATE TRIGGER audit_new_or_deleted AFTER INSERT OR DELETE ON bridge.webhooks FOR EACH ROW EXECUTE FUNCTION bridge.audit_change('webhook', 'name url event_type description is_active timeout_seconds max_concurrency filter rate_per_second ordered retry_schedule', 'secret');

CREATE TRIGGER audit_truncate BEFORE TRUNCATE ON bridge.api_tokens FOR EACH STATEMENT EXECUTE FUNCTION bridge.audit_truncate('token');

CREATE TRIGGER audit_truncate BEFORE TRUNCATE ON bridge.capture_rules FOR EACH STATEMENT EXECUTE FUNCTION bridge.audit_truncate('rule');

CREATE TRIGGER audit_truncate BEFORE TRUNCATE ON bridge.webhooks FOR EACH STATEMENT EXECUTE FUNCTION bridge.audit_truncate('webhook');

CREATE TRIGGER audit_update AFTER UPDATE ON bridge.webhooks FOR EACH ROW WHEN ((((((((((((((((old.name IS DISTINCT FROM new.name) OR (old.url IS DISTINCT FROM new.url)) OR (old.event_type IS DISTINCT FROM new.event_type)) OR (old.secret IS DISTINCT FROM new.secret)) OR (old.previous_secret IS DISTINCT FROM new.previous_secret)) OR (old.description IS DISTINCT FROM new.description)) OR (old.is_active IS DISTINCT FROM new.is_active)) OR (old.disabled_reason IS DISTINCT FROM new.disabled_reason)) OR (old.timeout_seconds IS DISTINCT FROM new.timeout_seconds)) OR (old.max_concurrency IS DISTINCT FROM new.max_concurrency)) OR ((old.filter)::text IS DISTINCT FROM (new.filter)::text)) OR (old.rate_per_second IS DISTINCT FROM new.rate_per_second)) OR (old.ordered IS DISTINCT FROM new.ordered)) OR (old.retry_schedule IS DISTINCT FROM new.retry_schedule)) OR (old.paused_at IS DISTINCT FROM new.paused_at))) EXECUTE FUNCTION bridge.audit_change('webhook', 'name url event_type description is_active disabled_reason timeout_seconds max_concurrency filter rate_per_second ordered retry_schedule paused_at', 'secret previous_secret');

CREATE TRIGGER forgive_webhook BEFORE UPDATE OF is_active ON bridge.webhooks FOR EACH ROW WHEN ((new.is_active AND (NOT old.is_active))) EXECUTE FUNCTION bridge.forgive_webhook();

CREATE TRIGGER note_deleted_webhook AFTER DELETE ON bridge.webhooks FOR EACH ROW WHEN (((old.delivered_count > 0) OR (old.failed_count > 0))) EXECUTE FUNCTION bridge.note_deleted_webhook();

ALTER TABLE ONLY bridge.delivery_queue
    ADD CONSTRAINT delivery_queue_webhook_fkey FOREIGN KEY (webhook_id) REFERENCES bridge.webhooks(id) ON DELETE CASCADE;

REVOKE ALL ON FUNCTION bridge.audit(p_action text, p_target_id bigint, p_target text, p_changes jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.audit_change() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.audit_truncate() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.create_partitions(p_first_day date, p_days integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.drop_expired_partition(p_parent text, p_keep_days integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.emit(p_event_type text, p_payload jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.failed_capture(p_table oid, p_row jsonb, p_error text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.forget_audit(p_keep_days integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.forgive_webhook() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.is_ours(p_xid xid) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.lead() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.leader_pid() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.note(p_topic text, p_key text, p_value jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.note_deleted_webhook() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.noted(p_topic text, p_key text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.passes(p_filter jsonpath, p_payload jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.patterns_matching(p_event_type text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.pause_webhook(p_webhook_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.redeliver(p_delivery_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.redeliver_failed(p_webhook_id bigint, p_since timestamp with time zone, p_until timestamp with time zone, p_dry_run boolean, p_per_second double precision) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.requeue(p_webhook_id bigint, p_delivery_ids bigint[], p_per_second double precision) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.resume_webhook(p_webhook_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.ring() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.take_note(p_topic text, p_key text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.wake_couriers() FROM PUBLIC;
