-- Schema bridge after every migration, as pg_dump writes it. Written by make schema.

CREATE SCHEMA bridge;

COMMENT ON SCHEMA bridge IS 'pgbridge: captured events, their log, and the deliveries made of them.';

CREATE FUNCTION bridge.advance_sequences(p_event_id bigint, p_outbox_id bigint) RETURNS TABLE(sequence_name text, last_id bigint, used_id bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    for sequence_name, last_id, used_id in select * from bridge.sequences_behind(p_event_id, p_outbox_id) loop
        -- Not at once to any number, so that no caller can use up the ids.
        used_id := least(used_id, last_id + 1000000000);
        perform setval(sequence_name, used_id);
        return next;
    end loop;
end
$$;

COMMENT ON FUNCTION bridge.advance_sequences(p_event_id bigint, p_outbox_id bigint) IS 'Moves the sequences_behind past the ids that are in use, and returns them as they were.';

CREATE FUNCTION bridge.are_scopes(p_scopes text[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select cardinality(p_scopes) between 1 and 100
       and (select bool_and(bridge.is_scope(scope)) from unnest(p_scopes) as scope)
$$;

COMMENT ON FUNCTION bridge.are_scopes(p_scopes text[]) IS 'Returns whether an array holds 1 to 100 scopes and nothing else.';

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
        v_who := null; -- Not JSON: not set by pgbridge.
    end;
    if coalesce(v_who ->> 'via' not in ('api', 'console', 'cli'), true) then
        v_who := jsonb_build_object(
            'via', case when current_setting('application_name') = 'pgbridge' then 'bridge' else 'sql' end,
            'actor', current_setting('application_name'));
    end if;
    insert into bridge.audit_log (action, target_id, target, via, actor, address, changes)
    values (p_action, p_target_id, bridge.without_controls(p_target), v_who ->> 'via',
            coalesce(bridge.without_controls(v_who ->> 'actor'), ''),
            bridge.without_controls(v_who ->> 'address'), p_changes);
end
$$;

COMMENT ON FUNCTION bridge.audit(p_action text, p_target_id bigint, p_target text, p_changes jsonb) IS 'Records a change and its author. The author comes from bridge.actor, a setting of the transaction or session: {"via": "api", "actor": …, "address": …}.';

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

COMMENT ON FUNCTION bridge.audit_change() IS 'Trigger: records a change of a row in audit_log. Arguments: the kind of object, the audited columns, and those among them that are secret.';

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

COMMENT ON FUNCTION bridge.audit_truncate() IS 'Trigger: records in audit_log that a table was truncated, and how many rows it had. Argument: the kind of object.';

CREATE FUNCTION bridge.cancel_redelivery(p_webhook_id bigint) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_job bridge.redeliveries;
begin
    update bridge.redeliveries
    set cancelled_at = clock_timestamp()
    where webhook_id = p_webhook_id and state = 'running'
    returning * into v_job;
    if found then
        perform bridge.audit('webhook.redelivery_cancelled', p_webhook_id, null,
            jsonb_build_object('requeued', v_job.requeued, 'count', v_job.matched));
        return true;
    end if;
    perform from bridge.webhooks where id = p_webhook_id;
    if not found then
        raise 'there is no webhook %', p_webhook_id using errcode = 'no_data_found';
    end if;
    return false;
end
$$;

COMMENT ON FUNCTION bridge.cancel_redelivery(p_webhook_id bigint) IS 'Ends the running redelivery of a webhook; false if none is running. Deliveries that are in the queue already, at most two thousand, are still sent.';

CREATE FUNCTION bridge.check_filter() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    perform bridge.to_filter(new.filter::text);
    return null;
end
$$;

COMMENT ON FUNCTION bridge.check_filter() IS 'Trigger: an active webhook''s filter has no filter_problem. As a check constraint, this would add 0.2 ms to every update of the counters.';

CREATE TABLE bridge.redeliveries (
    webhook_id bigint NOT NULL,
    finished_since timestamp with time zone NOT NULL,
    finished_until timestamp with time zone NOT NULL,
    status text,
    per_second double precision NOT NULL,
    matched bigint DEFAULT 0 NOT NULL,
    requeued bigint DEFAULT 0 NOT NULL,
    last_id bigint DEFAULT 0 NOT NULL,
    batch_id bigint,
    next_due_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    finished_at timestamp with time zone,
    cancelled_at timestamp with time zone,
    state text GENERATED ALWAYS AS (
CASE
    WHEN (cancelled_at IS NOT NULL) THEN 'cancelled'::text
    WHEN (finished_at IS NOT NULL) THEN 'finished'::text
    ELSE 'running'::text
END) STORED NOT NULL,
    CONSTRAINT redeliveries_status_known CHECK ((status = ANY (ARRAY['success'::text, 'failed'::text])))
);

COMMENT ON TABLE bridge.redeliveries IS 'The last redelivery of a range for each webhook, and its progress. The next one replaces it.';

COMMENT ON COLUMN bridge.redeliveries.finished_since IS 'The range: deliveries that finished at this time or later …';

COMMENT ON COLUMN bridge.redeliveries.finished_until IS '… and before this one. Never after created_at, so that what fails again is not redelivered twice.';

COMMENT ON COLUMN bridge.redeliveries.status IS 'success or failed: only these; null: both.';

COMMENT ON COLUMN bridge.redeliveries.matched IS 'Deliveries to send again, counted at the start.';

COMMENT ON COLUMN bridge.redeliveries.requeued IS 'Deliveries moved back to the queue so far. In the end fewer than matched if some have expired meanwhile.';

COMMENT ON COLUMN bridge.redeliveries.last_id IS 'Deliveries up to this id have been dealt with.';

COMMENT ON COLUMN bridge.redeliveries.batch_id IS 'First delivery of the last batch. The next batch follows once it has been tried.';

COMMENT ON COLUMN bridge.redeliveries.next_due_at IS 'When the next delivery is due.';

CREATE FUNCTION bridge.continue_redelivery() RETURNS SETOF bridge.redeliveries
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_webhook_id bigint;
begin
    if not exists (select from bridge.redeliveries where state = 'running') then
        return;
    end if;
    -- As drop_expired_partition does, before any webhook.
    lock table bridge.redelivery_lock in row exclusive mode;
    select r.webhook_id into v_webhook_id
    from bridge.redeliveries r
    join bridge.webhooks w on w.id = r.webhook_id
    where r.state = 'running'
      and r.next_due_at <= now() + interval '10 seconds'
      -- The queue never has more than two batches that wait for their first attempt, however slow
      -- the receiver is and whatever holds the webhook back.
      and not exists (
          select from bridge.delivery_queue q
          where q.id = r.batch_id and q.leased_until is null and q.attempt_number = q.attempts_before)
    order by r.next_due_at
    limit 1
    -- Another bridge may be at it, and a webhook that is being settled or deleted can wait.
    for no key update of w skip locked
    for update of r skip locked;
    if found then
        perform bridge.requeue_batch(v_webhook_id);
        perform bridge.wake_couriers();
        return query select * from bridge.redeliveries where webhook_id = v_webhook_id;
    end if;
end
$$;

COMMENT ON FUNCTION bridge.continue_redelivery() IS 'Moves the next batch of one running redelivery to the queue and returns its progress; no row if none is due. Every bridge calls it all the time.';

CREATE FUNCTION bridge.create_partitions(p_first_day date, p_days integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

COMMENT ON FUNCTION bridge.create_partitions(p_first_day date, p_days integer) IS 'Creates the missing daily partitions of every log, for a number of days from a date on. Returns how many it created.';

CREATE FUNCTION bridge.dead_letters_page(p_dead_letter_id bigint, p_before_id bigint, p_limit bigint, p_bytes bigint) RETURNS TABLE(id bigint, event_type text, webhook_id bigint, event_id bigint, captured_at timestamp with time zone, recorded_at timestamp with time zone, reason text, payload text, payload_omitted boolean)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
    v_letter bridge.dead_letters;
    v_bytes  bigint := 0;
begin
    for v_letter in
        select *
        from bridge.dead_letters
        where (p_dead_letter_id is null or id = p_dead_letter_id)
          and (p_before_id is null or id < p_before_id)
        order by id desc
        limit p_limit
    loop
        id := v_letter.id;
        event_type := bridge.utf8_text(left(v_letter.event_type, 255));
        webhook_id := v_letter.webhook_id;
        event_id := v_letter.event_id;
        captured_at := least(greatest(v_letter.captured_at, '0001-01-02 UTC'), '9999-12-30 UTC');
        recorded_at := v_letter.recorded_at;
        reason := left(v_letter.reason, 2000);
        payload := null;
        -- A gigabyte of text may be stored in 8 kB, but only if it is compressed.
        if v_bytes < p_bytes and pg_column_size(v_letter.payload) <= 8192
            and pg_column_compression(v_letter.payload) is null then
            begin
                payload := v_letter.payload::text;
                v_bytes := v_bytes + octet_length(payload);
                payload := case when v_bytes <= p_bytes then bridge.utf8_text(payload) end;
            exception when others then
                payload := null; -- It may be what made the drain fail.
            end;
        end if;
        payload_omitted := v_letter.payload is not null and payload is null;
        return next;
    end loop;
end
$$;

COMMENT ON FUNCTION bridge.dead_letters_page(p_dead_letter_id bigint, p_before_id bigint, p_limit bigint, p_bytes bigint) IS 'Returns dead letters below an id, newest first, or one by its id. Payloads that are large, that do not fit into a number of bytes together, or that cannot be read are null.';

CREATE FUNCTION bridge.drop_dead_letter(p_dead_letter_id bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_letter bridge.dead_letters;
begin
    delete from bridge.dead_letters where id = p_dead_letter_id returning * into v_letter;
    if not found then
        raise 'there is no dead letter %', p_dead_letter_id using errcode = 'no_data_found';
    end if;
    perform bridge.audit('dead_letter.dropped', p_dead_letter_id, bridge.utf8_text(left(v_letter.event_type, 255)),
        jsonb_build_object('webhook_id', v_letter.webhook_id, 'reason', v_letter.reason));
end
$$;

COMMENT ON FUNCTION bridge.drop_dead_letter(p_dead_letter_id bigint) IS 'Deletes a dead letter.';

CREATE FUNCTION bridge.drop_expired_partition(p_parent text, p_keep_days integer) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '300ms'
    AS $_$
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
$_$;

COMMENT ON FUNCTION bridge.drop_expired_partition(p_parent text, p_keep_days integer) IS 'Drops the oldest partition of a log that is older than the given number of days, and subtracts it from the webhooks'' counts. Returns its name, or null if no partition has expired. Raises lock_not_available after about 0.3 s if a session is reading the log.';

CREATE FUNCTION bridge.emit(p_event_type text, p_payload jsonb DEFAULT '{}'::jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if p_event_type is null or not bridge.is_event_type(p_event_type) or length(p_event_type) > 255 then
        raise 'invalid event type: %', coalesce(p_event_type, 'null')
            using errcode = 'invalid_parameter_value',
                  hint = 'Use letters, digits, _ and -, in parts joined by dots, such as order.paid.';
    end if;
    if p_payload is null then
        raise 'the payload must be JSON, not null' using errcode = 'invalid_parameter_value';
    end if;
    insert into bridge.outbox (event_type, payload) values (p_event_type, p_payload);
    perform bridge.ring();
end
$$;

COMMENT ON FUNCTION bridge.emit(p_event_type text, p_payload jsonb) IS 'Emits an event by hand. After the commit it goes to the live stream and to webhooks like a captured event.';

CREATE FUNCTION bridge.failed_capture(p_table oid, p_row jsonb, p_error text) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    -- It stays JSON: beyond ASCII, JSON has characters only in strings.
    select bridge.utf8_text((
        jsonb_build_object('_capture_error', left(p_error, 2000)) || (
            select coalesce(jsonb_object_agg(a.attname, p_row -> a.attname::text), '{}')
            from pg_index i
            join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
            where i.indrelid = p_table and i.indisprimary and p_row is not null))::text)::jsonb
$$;

COMMENT ON FUNCTION bridge.failed_capture(p_table oid, p_row jsonb, p_error text) IS 'Returns the payload to use when the real one cannot be computed: the error and the row''s primary key.';

CREATE FUNCTION bridge.filter_problem(p_filter text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    c_most_characters constant integer := 2000;
    -- Strings and quoted keys can contain anything, so they are emptied first.
    c_quoted constant text := '"(?:[^"\\]|\\.)*"';
    -- A path without its $ or @.
    c_steps constant text := '(?:\.""|\.\*|\[(?:\*|last|[0-9]+)\])*(?:\.(?:size|type)\(\))?';
    c_constant constant text := '(?:""|-?[0-9.]+|true|false|null)';
    c_comparison constant text := ' (?:==|!=|<=?|>=?) ';
    -- %1$s is $ or @.
    c_condition constant text := concat(
        '%1$s', c_steps, c_comparison, c_constant, '|', c_constant, c_comparison, '%1$s', c_steps, '|',
        '%1$s', c_steps, ' starts with ""|exists \(%1$s', c_steps, '\)');
    c_joined constant text := '((?:[C ()!&|]|is unknown)+)';
    v_bare text := regexp_replace(left(p_filter, c_most_characters + 1), c_quoted, '""', 'g');
    v_text text;
    v_left text;
    v_count integer;
    v_most integer;
begin
    -- Before PostgreSQL parses the text: it also compiles the patterns of like_regex, and a pattern of 20
    -- characters can take minutes. Comments and escapes could hide one. And it writes 1e131071 in 131,072 digits.
    if length(p_filter) > c_most_characters then
        return format('must not be longer than %s characters', c_most_characters);
    elsif v_bare ~* 'like_regex' collate "C" then
        return 'must not use like_regex; compare with == or starts with';
    elsif v_bare ~ '\\|/\*' then
        return 'must not have a comment, or a backslash outside quotes';
    elsif v_bare ~* '\m[0-9][0-9_]*\.?[0-9_]*e[-+]?[0-9_]{4}' collate "C" then
        return 'must not have exponents of more than three digits';
    end if;
    begin
        v_text := p_filter::jsonpath;
    exception when others then
        return 'must be a jsonpath: ' || sqlerrm;
    end;
    if length(v_text) > c_most_characters then
        return format(
            'must not be longer than %s characters as PostgreSQL writes it; it has %s', c_most_characters, length(v_text));
    end if;

    -- PostgreSQL writes quotes and parentheses: ($."a" == 1 && !($."b" == 2)). Replace each condition by
    -- C. The syntax is correct, so the filter is allowed if only operators remain.
    v_bare := regexp_replace(v_text, c_quoted, '""', 'g');
    v_left := regexp_replace(v_bare, format(c_condition, '@'), 'C', 'g');
    v_left := regexp_replace(v_left, format('exists \(\$%s\?\(%s\)\)', c_steps, c_joined), 'C(\1)', 'g');
    v_left := regexp_replace(v_left, format(c_condition, '\$'), 'C', 'g');
    if v_left !~ format('^(?:strict )?%s$', c_joined) then
        return case
            when v_bare like '%**%' then 'must not contain **; name the keys, or use .* for one level'
            when v_bare like '%$""%' then 'must not have variables; a field is written $.name'
            when v_bare ~ '\.(?!(?:size|type)\(\)[^.[?])[a-z_]+\(' then
                'must not call methods, except .size() and .type() at the end of a path'
            when v_bare ~ ' [-+*/%] |[-+][$@(]' then 'must not calculate'
            when v_bare ~ '\[(?!(?:\*|last|[0-9]+)\])' then 'must have one number, last or * in [ ]'
            when v_left like '%?(%' then
                'must use ? only at the end of the path in exists(), with conditions on @ alone'
            else 'must compare one path with one constant, as in $.amount_kopeks >= 100000'
        end;
    end if;

    -- A path can lead to every element of an array, even without [*]: jsonpath unwraps arrays unless it
    -- is strict. A condition on a million elements takes 50 ms and 60 MB; an index or a method, as much
    -- again. In strict mode and without *, a path leads to at most one value.
    v_most := case when v_bare like 'strict %' and v_bare not like '%*%' then 60 else 5 end;
    v_count := length(regexp_replace(v_left, '[^C]', '', 'g')) + length(regexp_replace(v_bare, '[^*]', '', 'g'))
        + 2 * cardinality(regexp_split_to_array(v_bare, '\[(?!\*)|\(\)')) - 2;
    if v_count > v_most then
        return format(
            'must have at most %s conditions, counting [*] and .* as one and every index or method as two; it has %s%s',
            v_most, v_count, case when v_most < 60 then ' (60 are allowed in strict mode without [*] and .*)' end);
    elsif cardinality(regexp_split_to_array(v_left, '!|is unknown')) > 11 then
        return 'must have at most ten ! and is unknown';
    end if;
    return null;
end
$_$;

COMMENT ON FUNCTION bridge.filter_problem(p_filter text) IS 'Returns why no webhook may have this filter; null if one may. docs/sql.md describes what is allowed.';

CREATE FUNCTION bridge.forget_audit(p_keep_days integer) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    with forgotten as (
        delete from bridge.audit_log
        where id = any (array(
            select id
            from bridge.audit_log
            where changed_at < now() - make_interval(days => greatest(p_keep_days, 30))
            order by id
            limit 5000))
        returning id
    )
    select count(*) from forgotten
$$;

COMMENT ON FUNCTION bridge.forget_audit(p_keep_days integer) IS 'Deletes up to 5,000 audit entries older than a number of days, but never those of the last 30 days. Returns how many.';

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

COMMENT ON FUNCTION bridge.forgive_webhook() IS 'Trigger: forgets past failures when a webhook is activated, however that is done. With its old failing_since, the first new failure would disable it again.';

CREATE FUNCTION bridge.give_event_ids(p_last_id bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if p_last_id > coalesce(pg_sequence_last_value('bridge.event_id'), 0) then
        perform setval('bridge.event_id', p_last_id);
    end if;
    return p_last_id;
end
$$;

COMMENT ON FUNCTION bridge.give_event_ids(p_last_id bigint) IS 'Records that event ids up to this one have been given out.';

CREATE FUNCTION bridge.give_up_next(p_webhook_id bigint, p_reason text, OUT delivery_id bigint, OUT event_id bigint, OUT attempt_number integer) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
    v_queued   bridge.delivery_queue;
    v_delivery bridge.delivery_log;
begin
    select q.* into v_queued
    from bridge.delivery_queue q
    join bridge.webhooks w on w.id = q.webhook_id
    where q.webhook_id = p_webhook_id
      and q.next_attempt_at <= now() and (q.leased_until is null or q.leased_until <= now())
    -- As claim does.
    order by case when w.ordered then q.id end, q.is_redelivery, q.next_attempt_at, q.id
    limit 1
    for update of q skip locked;
    if not found then
        return;
    end if;
    v_delivery.id := v_queued.id;
    v_delivery.webhook_id := v_queued.webhook_id;
    v_delivery.event_id := v_queued.event_id;
    v_delivery.event_recorded_at := v_queued.event_recorded_at;
    v_delivery.event_type := v_queued.event_type;
    v_delivery.status := 'failed';
    v_delivery.captured_at := v_queued.captured_at;
    v_delivery.committed_at := v_queued.committed_at;
    v_delivery.created_at := v_queued.created_at;
    v_delivery.finished_at := now();
    v_delivery.attempt_number := v_queued.attempt_number;
    v_delivery.error_message := 'cannot claim the delivery: ' || p_reason;
    perform bridge.log_apart(v_delivery, p_reason);
    delivery_id := v_queued.id;
    event_id := v_queued.event_id;
    attempt_number := v_queued.attempt_number;
end
$$;

COMMENT ON FUNCTION bridge.give_up_next(p_webhook_id bigint, p_reason text, OUT delivery_id bigint, OUT event_id bigint, OUT attempt_number integer) IS 'Gives up the due delivery of a webhook that a claim takes first, because no claim can take it. Returns its id, its event and its number of attempts; nulls if none is due.';

CREATE FUNCTION bridge.is_event_type(p_text text) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select p_text ~ '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$'
$_$;

COMMENT ON FUNCTION bridge.is_event_type(p_text text) IS 'Returns whether a text is an exact event type, such as order.paid, and not a pattern.';

CREATE FUNCTION bridge.is_of_values(p_sqlstate text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select p_sqlstate ~ '^(22|23|P0|54|53200|XX)'
$$;

COMMENT ON FUNCTION bridge.is_of_values(p_sqlstate text) IS 'Returns whether some value made a statement fail, so that others need not fail. The same as in bridge/database/errors.py.';

CREATE FUNCTION bridge.is_ours(p_xid xid) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    -- age() counts from the current transaction. Its savepoints have younger ids, and so may other
    -- transactions.
    select age(p_xid) <= 0
       and pg_xact_status((pg_current_xact_id()::text::bigint - age(p_xid))::text::xid8) = 'in progress'
$$;

COMMENT ON FUNCTION bridge.is_ours(p_xid xid) IS 'Returns whether the current transaction, or one of its savepoints, wrote a visible row version. The argument is the row''s xmin or xmax, which is then still in progress.';

CREATE FUNCTION bridge.is_scope(p_scope text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select p_scope is not null and (
        p_scope in ('events:read', 'webhooks:read', 'webhooks:write', 'admin')
        or p_scope = 'events:read:*'
        or starts_with(p_scope, 'events:read:')
           and bridge.is_event_type(regexp_replace(substr(p_scope, length('events:read:') + 1), '\.\*$', '')))
$_$;

COMMENT ON FUNCTION bridge.is_scope(p_scope text) IS 'Returns whether a text is a scope of an API token.';

CREATE FUNCTION bridge.lead() RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

COMMENT ON FUNCTION bridge.lead() IS 'Makes this session the drainer until it ends, unless another session is. Returns whether it is the drainer. Only roles that may execute this function can drain.';

CREATE FUNCTION bridge.leader_pid() RETURNS integer
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

COMMENT ON FUNCTION bridge.leader_pid() IS 'Returns the process id of the session that drains, or null if no bridge drains.';

CREATE TABLE bridge.delivery_log (
    id bigint NOT NULL,
    webhook_id bigint NOT NULL,
    event_id bigint NOT NULL,
    event_recorded_at timestamp with time zone NOT NULL,
    event_type text NOT NULL,
    status text NOT NULL,
    captured_at timestamp with time zone,
    committed_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    claimed_at timestamp with time zone,
    sent_at timestamp with time zone,
    acknowledged_at timestamp with time zone,
    finished_at timestamp with time zone DEFAULT now() NOT NULL,
    attempt_number integer NOT NULL,
    response_status integer,
    response_body text,
    error_message text,
    CONSTRAINT delivery_log_status_known CHECK ((status = ANY (ARRAY['success'::text, 'failed'::text])))
)
PARTITION BY LIST (status);

COMMENT ON TABLE bridge.delivery_log IS 'Finished deliveries, one row each. Partitioned by outcome and then by day, so that successes and failures can be kept for different times.';

COMMENT ON COLUMN bridge.delivery_log.id IS 'delivery_queue.id.';

COMMENT ON COLUMN bridge.delivery_log.status IS 'success: answered with 2xx. failed: given up.';

COMMENT ON COLUMN bridge.delivery_log.captured_at IS 'events.occurred_at.';

COMMENT ON COLUMN bridge.delivery_log.committed_at IS 'events.committed_at or, if that is unknown, captured_at, which is slightly earlier.';

COMMENT ON COLUMN bridge.delivery_log.claimed_at IS 'When a courier claimed it for its last attempt.';

COMMENT ON COLUMN bridge.delivery_log.sent_at IS 'When the last attempt began, by the database''s clock.';

COMMENT ON COLUMN bridge.delivery_log.acknowledged_at IS 'When the receiver''s 2xx arrived, by the database''s clock; null if it failed.';

COMMENT ON COLUMN bridge.delivery_log.attempt_number IS 'Total number of attempts.';

COMMENT ON COLUMN bridge.delivery_log.response_body IS 'First 16 KiB of the last response.';

CREATE FUNCTION bridge.log_apart(p_delivery bridge.delivery_log, p_reason text) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_result text := p_delivery.status;
begin
    delete from bridge.delivery_queue where id = p_delivery.id;
    begin
        insert into bridge.delivery_log select p_delivery.*;
    exception when others then
        if not bridge.is_of_values(sqlstate) then
            raise;
        end if;
        begin
            -- Without what the receiver sent.
            insert into bridge.delivery_log
                (id, webhook_id, event_id, event_recorded_at, event_type, status, attempt_number,
                 error_message, created_at, captured_at, committed_at)
            values (p_delivery.id, p_delivery.webhook_id, p_delivery.event_id, p_delivery.event_recorded_at,
                    p_delivery.event_type, 'failed', p_delivery.attempt_number,
                    'cannot log the delivery: ' || bridge.utf8_text(left(sqlerrm, 2000)), p_delivery.created_at,
                    p_delivery.captured_at, p_delivery.committed_at);
            v_result := 'failed';
        exception when others then
            if not bridge.is_of_values(sqlstate) then
                raise;
            end if;
            insert into bridge.dead_letters
                (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at, reason)
            values (p_delivery.webhook_id, p_delivery.event_id, p_delivery.event_recorded_at,
                    p_delivery.event_type, coalesce(p_delivery.captured_at, p_delivery.created_at),
                    p_delivery.committed_at, p_reason);
            v_result := 'dead letter';
        end;
    end;
    begin
        update bridge.webhooks
        set delivered_count = delivered_count + (v_result = 'success')::integer,
            failed_count = failed_count + (v_result = 'failed')::integer
        where id = p_delivery.webhook_id and v_result <> 'dead letter';
    exception when others then
        if not bridge.is_of_values(sqlstate) then
            raise;
        end if;
    end;
    return v_result;
end
$$;

COMMENT ON FUNCTION bridge.log_apart(p_delivery bridge.delivery_log, p_reason text) IS 'Moves one delivery from the queue to the log, or if the log rejects it, to dead_letters. Returns its status, or dead letter.';

CREATE FUNCTION bridge.log_bounds(OUT missing_through bigint, OUT newest_id bigint) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

COMMENT ON FUNCTION bridge.log_bounds(OUT missing_through bigint, OUT newest_id bigint) IS 'From which id on the event log is complete, and where it ends. Events up to missing_through may be missing, even if older ones are left for their deliveries. newest_id is the highest id or, if the log is empty, the last one assigned.';

CREATE FUNCTION bridge.newest_deliveries(p_webhook_id bigint, p_status text, p_from_id bigint, p_before_id bigint, p_limit bigint) RETURNS TABLE(id bigint, webhook_id bigint, event_id bigint, event_type text, status text, attempt_number integer, response_status integer, error_message text, created_at timestamp with time zone, next_attempt_at timestamp with time zone)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
begin
    -- Each table has an index that returns ids in order, for one webhook and for all of them; the view
    -- has none. Two statements, so that each has a plan that uses its index.
    if p_webhook_id is null then
        return query
        select *
        from ((select id, webhook_id, event_id, event_type, 'pending', attempt_number, response_status,
                      error_message, created_at, next_attempt_at
               from bridge.delivery_queue
               where coalesce(p_status, 'pending') = 'pending' and id >= p_from_id and id < p_before_id
               order by id desc limit p_limit)
              union all
              (select id, webhook_id, event_id, event_type, status, attempt_number, response_status,
                      error_message, created_at, null
               from bridge.delivery_log
               where status in (coalesce(p_status, 'success'), coalesce(p_status, 'failed'))
                 and id >= p_from_id and id < p_before_id
               order by id desc limit p_limit)) as newest
        order by id desc
        limit p_limit;
    else
        return query
        select *
        from ((select id, webhook_id, event_id, event_type, 'pending', attempt_number, response_status,
                      error_message, created_at, next_attempt_at
               from bridge.delivery_queue
               where webhook_id = p_webhook_id
                 and coalesce(p_status, 'pending') = 'pending' and id >= p_from_id and id < p_before_id
               order by id desc limit p_limit)
              union all
              (select id, webhook_id, event_id, event_type, status, attempt_number, response_status,
                      error_message, created_at, null
               from bridge.delivery_log
               where webhook_id = p_webhook_id
                 and status in (coalesce(p_status, 'success'), coalesce(p_status, 'failed'))
                 and id >= p_from_id and id < p_before_id
               order by id desc limit p_limit)) as newest
        order by id desc
        limit p_limit;
    end if;
end
$$;

COMMENT ON FUNCTION bridge.newest_deliveries(p_webhook_id bigint, p_status text, p_from_id bigint, p_before_id bigint, p_limit bigint) IS 'Returns deliveries in an id range, newest first, optionally of one webhook or with one status. The range excludes its upper end.';

CREATE FUNCTION bridge.note(p_topic text, p_key text, p_value jsonb) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    insert into bridge.transaction_notes as n (topic, key, value)
    select p_topic, p_key, p_value
    -- A longer key does not fit into the index, and the application's statement would fail.
    where octet_length(p_topic) + octet_length(p_key) <= 1000
    on conflict on constraint transaction_notes_pkey do update
    set value = excluded.value
    where n.value is null
$$;

COMMENT ON FUNCTION bridge.note(p_topic text, p_key text, p_value jsonb) IS 'Leaves a note for the rest of the current transaction. The first note with a topic and key wins. A key too long for the index is ignored.';

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

COMMENT ON FUNCTION bridge.note_deleted_webhook() IS 'Trigger: keeps a deleted webhook''s name and URL for as long as the log has deliveries to it.';

CREATE FUNCTION bridge.note_of_serializable(p_topic text, p_key text, p_take boolean) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    -- The condition hands over the existing value without a new version of its row: many rows may ask for
    -- one note.
    perform set_config('bridge.noted', '', true);
    insert into bridge.transaction_notes as n (topic, key)
    select p_topic, p_key
    where octet_length(p_topic) + octet_length(p_key) <= 1000
    on conflict on constraint transaction_notes_pkey do update
    set value = null
    where case when set_config('bridge.noted', coalesce(n.value::text, ''), true) = '' then false else p_take end;
    return nullif(current_setting('bridge.noted'), '')::jsonb;
end
$$;

COMMENT ON FUNCTION bridge.note_of_serializable(p_topic text, p_key text, p_take boolean) IS 'noted() and, with p_take, take_note() in a serializable transaction.';

CREATE FUNCTION bridge.noted(p_topic text, p_key text) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if current_setting('transaction_isolation') = 'serializable' then
        return bridge.note_of_serializable(p_topic, p_key, false);
    end if;
    return (
        select value
        from bridge.transaction_notes
        where xact = pg_current_xact_id_if_assigned() and topic = p_topic and key = p_key);
end
$$;

COMMENT ON FUNCTION bridge.noted(p_topic text, p_key text) IS 'Returns the current transaction''s note, or null.';

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

COMMENT ON FUNCTION bridge.passes(p_filter jsonpath, p_payload jsonb) IS 'Returns whether a payload passes a webhook''s filter. Errors count as false. Some of them, such as an unset variable or deep nesting, are raised even in jsonpath''s silent mode, and would stop the drain for every webhook.';

CREATE FUNCTION bridge.passing(p_webhook_ids bigint[], p_filters jsonpath[], p_payload jsonb) RETURNS SETOF bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    -- Read a large payload from its TOAST table once, not once for each filter.
    v_payload jsonb := p_payload #> '{}';
begin
    return query
        select webhook.id
        from unnest(p_webhook_ids, p_filters) as webhook(id, filter)
        where bridge.passes(webhook.filter, v_payload);
end
$$;

COMMENT ON FUNCTION bridge.passing(p_webhook_ids bigint[], p_filters jsonpath[], p_payload jsonb) IS 'Returns the webhooks whose filter a payload passes. The two arrays have the same length.';

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

COMMENT ON FUNCTION bridge.patterns_matching(p_event_type text) IS 'Returns every value of webhooks.event_type that matches this event type, the most specific first.';

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

COMMENT ON FUNCTION bridge.pause_webhook(p_webhook_id bigint) IS 'Pauses a webhook: its deliveries, including new ones, wait until resume_webhook. Attempts in flight finish.';

CREATE FUNCTION bridge.payload_text(p_event_id bigint, p_recorded_at timestamp with time zone) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    return (
        select e.payload::text
        from bridge.events e
        where e.id = p_event_id and e.recorded_at = p_recorded_at);
end
$$;

COMMENT ON FUNCTION bridge.payload_text(p_event_id bigint, p_recorded_at timestamp with time zone) IS 'Returns an event''s payload as text; null if it is no longer in the log. For statements that lock rows: in PostgreSQL 18, one that rechecks a locked row and prunes partitions at run time can crash the server.';

CREATE FUNCTION bridge.queue_deferred(p_deliveries integer, p_milliseconds integer, OUT deliveries bigint, OUT is_empty boolean) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_until        timestamptz := clock_timestamp() + make_interval(secs => p_milliseconds / 1000.0);
    v_event        bridge.deferred_events;
    -- The webhooks of the last event; most events have the same ones as the event before.
    v_event_type   text;
    v_from_id      bigint;
    v_unfiltered   bigint[];
    v_filtered     bigint[];
    v_filters      jsonpath[];
    v_payload      jsonb;
    v_webhook      record;
    v_passing      bigint[];
    -- Where to continue in this event; null: it is done.
    v_continue_id  bigint;
    v_done_id      bigint;
begin
    is_empty := false;
    begin
        -- Events go in order, so whoever has the first one works alone.
        perform from bridge.deferred_events order by event_id limit 1 for update nowait;
    exception when lock_not_available then
        return;
    end;
    deliveries := 0;
    for v_event in select * from bridge.deferred_events order by event_id loop
        exit when deliveries >= p_deliveries or v_done_id is not null and clock_timestamp() >= v_until;
        if (v_event.event_type, v_event.from_webhook_id) is distinct from (v_event_type, v_from_id) then
            v_event_type := v_event.event_type;
            v_from_id := v_event.from_webhook_id;
            select coalesce(array_agg(w.id) filter (where w.filter is null), '{}'),
                   array_agg(w.id order by w.id) filter (where w.filter is not null),
                   array_agg(w.filter order by w.id) filter (where w.filter is not null)
            into v_unfiltered, v_filtered, v_filters
            from unnest(bridge.patterns_matching(v_event_type)) as pattern
            join bridge.webhooks w on w.event_type = pattern
            where w.is_active and w.id >= v_from_id;
        end if;
        v_passing := v_unfiltered;
        v_continue_id := null;
        if v_filtered is not null then
            -- Read a large payload from its TOAST table once, not once for each filter.
            select e.payload #> '{}' into v_payload
            from bridge.events e
            where e.id = v_event.event_id and e.recorded_at = v_event.event_recorded_at;
            for v_webhook in select w.id, w.filter from unnest(v_filtered, v_filters) as w(id, filter) loop
                if bridge.passes(v_webhook.filter, v_payload) then
                    v_passing := v_passing || v_webhook.id;
                end if;
                if clock_timestamp() >= v_until then
                    v_continue_id := v_webhook.id + 1;
                    exit;
                end if;
            end loop;
        end if;
        select coalesce(array_agg(id order by id), '{}') into v_passing
        from unnest(v_passing) as id
        where id < v_continue_id or v_continue_id is null;
        if p_deliveries > 1 then
            insert into bridge.delivery_queue
                (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at)
            select id, v_event.event_id, v_event.event_recorded_at, v_event_type, v_event.captured_at,
                   v_event.committed_at
            from unnest(v_passing) with ordinality as webhook(id, place)
            order by place;
            deliveries := deliveries + cardinality(v_passing);
        else
            deliveries := deliveries + bridge.queue_deliveries(v_event, v_passing);
        end if;
        if v_continue_id is not null then
            update bridge.deferred_events set from_webhook_id = v_continue_id where event_id = v_event.event_id;
            exit;
        end if;
        v_done_id := v_event.event_id;
    end loop;
    delete from bridge.deferred_events where event_id <= v_done_id;
    is_empty := not exists (select from bridge.deferred_events);
end
$$;

COMMENT ON FUNCTION bridge.queue_deferred(p_deliveries integer, p_milliseconds integer, OUT deliveries bigint, OUT is_empty boolean) IS 'Creates deferred deliveries, in the order of events and webhooks: about so many, and for about so many milliseconds, but always some. If asked for one, it sets aside what the queue rejects. deliveries: null if another session is at work. is_empty: none are left.';

CREATE TABLE bridge.deferred_events (
    event_id bigint NOT NULL,
    event_recorded_at timestamp with time zone NOT NULL,
    event_type text NOT NULL,
    captured_at timestamp with time zone NOT NULL,
    committed_at timestamp with time zone NOT NULL,
    from_webhook_id bigint NOT NULL
);

COMMENT ON TABLE bridge.deferred_events IS 'Published events that are not queued for all of their webhooks yet. The drain inserts, queue_deferred deletes.';

COMMENT ON COLUMN bridge.deferred_events.event_recorded_at IS 'events.recorded_at.';

COMMENT ON COLUMN bridge.deferred_events.committed_at IS 'delivery_queue.committed_at.';

COMMENT ON COLUMN bridge.deferred_events.from_webhook_id IS 'Deliveries to webhooks with this id or a higher one are still to be created.';

CREATE FUNCTION bridge.queue_deliveries(p_event bridge.deferred_events, p_webhook_ids bigint[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_count bigint;
begin
    if cardinality(p_webhook_ids) = 0 then
        return 0;
    end if;
    begin
        insert into bridge.delivery_queue
            (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at)
        select id, p_event.event_id, p_event.event_recorded_at, p_event.event_type, p_event.captured_at,
               p_event.committed_at
        from unnest(p_webhook_ids) with ordinality as webhook(id, place)
        order by place;
        get diagnostics v_count = row_count;
        return v_count;
    exception when others then
        if not bridge.is_of_values(sqlstate) then
            raise;
        end if;
        if cardinality(p_webhook_ids) = 1 then
            insert into bridge.dead_letters
                (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at, reason)
            values (p_webhook_ids[1], p_event.event_id, p_event.event_recorded_at, p_event.event_type,
                    p_event.captured_at, p_event.committed_at, bridge.utf8_text(left(sqlerrm, 2000)));
            return 0;
        end if;
    end;
    v_count := cardinality(p_webhook_ids) / 2;
    return bridge.queue_deliveries(p_event, p_webhook_ids[:v_count])
        + bridge.queue_deliveries(p_event, p_webhook_ids[v_count + 1:]);
end
$$;

COMMENT ON FUNCTION bridge.queue_deliveries(p_event bridge.deferred_events, p_webhook_ids bigint[]) IS 'Queues an event for webhooks and returns how many deliveries it created. Those that the queue rejects become dead letters.';

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
            -- Another session may have requeued it between the two statements.
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
        -- It has changed in the meantime: start over.
    end loop;
end
$$;

COMMENT ON FUNCTION bridge.redeliver(p_delivery_id bigint) IS 'Sends a finished delivery again, whatever its outcome, with the same webhook-id, and returns true. Its attempts keep counting; the retry schedule starts over. A pending delivery is sent at once, and the function returns false.';

CREATE FUNCTION bridge.redeliver_failed(p_webhook_id bigint, p_since timestamp with time zone, p_until timestamp with time zone DEFAULT NULL::timestamp with time zone, p_dry_run boolean DEFAULT false, p_per_second double precision DEFAULT 20) RETURNS bigint
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select bridge.redeliver_finished(p_webhook_id, p_since, p_until, p_dry_run, p_per_second, 'failed')
$$;

COMMENT ON FUNCTION bridge.redeliver_failed(p_webhook_id bigint, p_since timestamp with time zone, p_until timestamp with time zone, p_dry_run boolean, p_per_second double precision) IS 'redeliver_finished for failed deliveries.';

CREATE FUNCTION bridge.redeliver_finished(p_webhook_id bigint, p_since timestamp with time zone, p_until timestamp with time zone DEFAULT NULL::timestamp with time zone, p_dry_run boolean DEFAULT false, p_per_second double precision DEFAULT 20, p_status text DEFAULT NULL::text) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    -- Finite, as not every driver reads infinite times.
    v_since   constant timestamptz := greatest(p_since, 'epoch');
    v_until   constant timestamptz := greatest(least(p_until, clock_timestamp()), 'epoch');
    v_matched bigint;
    v_job     bridge.redeliveries;
begin
    -- A null p_dry_run only counts, without any lock.
    if p_dry_run is distinct from false then
        perform from bridge.webhooks where id = p_webhook_id;
    else
        -- Keeps the webhook, but does not block settling.
        perform from bridge.webhooks where id = p_webhook_id for key share;
    end if;
    if not found then
        raise 'there is no webhook %', p_webhook_id using errcode = 'no_data_found';
    end if;
    if p_since is null then
        raise 'p_since must not be null' using errcode = 'invalid_parameter_value';
    end if;
    if p_per_second is null or not p_per_second between 0.001 and 100000 then
        raise 'p_per_second must be between 0.001 and 100000' using errcode = 'invalid_parameter_value';
    end if;
    if p_status not in ('success', 'failed') then
        raise 'p_status must be success, failed or null' using errcode = 'invalid_parameter_value';
    end if;
    if p_dry_run is not distinct from false then
        insert into bridge.redeliveries as r (webhook_id, finished_since, finished_until, status, per_second)
        values (p_webhook_id, v_since, v_until, p_status, p_per_second)
        on conflict (webhook_id) do update
        set finished_since = excluded.finished_since, finished_until = excluded.finished_until,
            status = excluded.status,
            per_second = excluded.per_second, matched = 0, requeued = 0, last_id = 0, batch_id = null,
            next_due_at = excluded.next_due_at, created_at = excluded.created_at,
            finished_at = null, cancelled_at = null
        where r.state <> 'running';
        if not found then
            raise 'webhook % has a running redelivery', p_webhook_id
                using errcode = 'object_not_in_prerequisite_state',
                      hint = 'Wait for it, or cancel it with bridge.cancel_redelivery.';
        end if;
    end if;
    -- Before anything moves: counting may take seconds, and locks no delivery.
    select count(*) into v_matched
    from bridge.delivery_log l
    where l.webhook_id = p_webhook_id
      and l.status in (coalesce(p_status, 'success'), coalesce(p_status, 'failed'))
      and l.finished_at >= v_since
      and l.finished_at < v_until
      and exists (select from bridge.events e where e.id = l.event_id and e.recorded_at = l.event_recorded_at);
    if p_dry_run is distinct from false then
        return v_matched;
    end if;
    perform bridge.requeue_batch(p_webhook_id);
    update bridge.redeliveries
    set matched = case state when 'finished' then requeued else v_matched end
    where webhook_id = p_webhook_id
    returning * into v_job;
    perform bridge.audit('webhook.redelivered', p_webhook_id, null,
        jsonb_build_object('since', p_since, 'until', p_until, 'per_second', p_per_second,
                           'status', p_status, 'count', v_job.matched));
    perform bridge.wake_couriers();
    return v_job.matched;
end
$$;

COMMENT ON FUNCTION bridge.redeliver_finished(p_webhook_id bigint, p_since timestamp with time zone, p_until timestamp with time zone, p_dry_run boolean, p_per_second double precision, p_status text) IS 'Sends the deliveries of a webhook again that finished in a time range with a status, or with either, at a rate per second and after new deliveries. With p_dry_run it only counts them. Returns how many. The first thousand are queued at once, the others batch by batch by a running bridge: see bridge.redeliveries.';

CREATE FUNCTION bridge.requeue(p_webhook_id bigint, p_delivery_ids bigint[], p_per_second double precision, p_due_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_since timestamp with time zone DEFAULT '-infinity'::timestamp with time zone, p_until timestamp with time zone DEFAULT 'infinity'::timestamp with time zone) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_requeued bigint;
begin
    if cardinality(p_delivery_ids) > 10000 then
        raise 'cannot requeue % deliveries at once: at most 10000', cardinality(p_delivery_ids)
            using errcode = 'invalid_parameter_value',
                  hint = 'Use bridge.redeliver_finished.';
    end if;
    -- Keep drop_expired_partition out.
    lock table bridge.redelivery_lock in row exclusive mode;
    -- One session at a time per webhook. The lock also keeps the webhook while its deliveries move.
    perform from bridge.webhooks where id = p_webhook_id for no key update;
    if not found then
        return 0;
    end if;
    with chosen as (
        delete from bridge.delivery_log l
        where l.id = any (p_delivery_ids)
          -- The ids of a batch lie close together: the index on (webhook_id, id) leads to few others.
          and (l.webhook_id, l.id) >= (p_webhook_id, (select min(id) from unnest(p_delivery_ids) as id))
          and (l.webhook_id, l.id) <= (p_webhook_id, (select max(id) from unnest(p_delivery_ids) as id))
          and l.finished_at between p_since and p_until
          -- Looked up for each delivery: a join might read all events.
          and (select true from bridge.events e where e.id = l.event_id and e.recorded_at = l.event_recorded_at)
        returning l.*
    ), queued as (
        insert into bridge.delivery_queue
            (id, webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at, created_at,
             is_redelivery, next_attempt_at, attempt_number, attempts_before,
             response_status, response_body, error_message)
        overriding system value
        select id, webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at, created_at,
               true,
               coalesce(p_due_at, clock_timestamp())
                   + make_interval(secs => (row_number() over (order by id) - 1) / p_per_second),
               attempt_number, attempt_number, response_status, response_body, error_message
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

COMMENT ON FUNCTION bridge.requeue(p_webhook_id bigint, p_delivery_ids bigint[], p_per_second double precision, p_due_at timestamp with time zone, p_since timestamp with time zone, p_until timestamp with time zone) IS 'Internal, for redeliver and requeue_batch: moves at most 10000 finished deliveries of a webhook from the log back to the queue, spaced out at a rate from p_due_at on, and returns how many. The range of finished_at only tells in which days to look.';

CREATE FUNCTION bridge.requeue_batch(p_webhook_id bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
declare
    c_batch     constant integer := 1000;
    -- Of the first and the last day, deliveries out of the range are read as well.
    c_looked_at constant integer := 10000;
    v_job       bridge.redeliveries;
    v_first_day timestamptz;
    v_end_day   timestamptz;
    v_ids       bigint[];
    v_since     timestamptz;
    v_until     timestamptz;
    v_last_id   bigint;
    v_is_last   boolean;
    v_due_at    timestamptz;
    v_requeued  bigint;
begin
    select * into strict v_job from bridge.redeliveries where webhook_id = p_webhook_id for update;
    v_first_day := date_trunc('day', v_job.finished_since, 'UTC');
    v_end_day := date_trunc('day', v_job.finished_until, 'UTC') + interval '24 hours';
    with looked_at as materialized (
        select l.id, l.finished_at
        from bridge.delivery_log l
        -- Pairs, because only the index on (webhook_id, id) finds them: the primary key would lead
        -- through the deliveries of every webhook.
        where (l.webhook_id, l.id) > (p_webhook_id, v_job.last_id)
          and (l.webhook_id, l.id) < (p_webhook_id + 1, 0)
          and l.status in (coalesce(v_job.status, 'success'), coalesce(v_job.status, 'failed'))
          -- Whole days choose partitions, but exclude none of their rows: the limit bounds what is read.
          and l.finished_at >= v_first_day
          and l.finished_at < v_end_day
        order by l.webhook_id, l.id
        limit c_looked_at
    ), batch as materialized (
        select id, finished_at
        from looked_at
        where finished_at >= v_job.finished_since and finished_at < v_job.finished_until
        -- In the order of looked_at, of which no more is read than the batch takes.
        limit c_batch
    )
    select array_agg(id order by id), min(finished_at), max(finished_at),
           case when count(*) = c_batch then max(id) else (select max(id) from looked_at) end,
           count(*) < c_batch and (select count(*) from looked_at) < c_looked_at
    into v_ids, v_since, v_until, v_last_id, v_is_last
    from batch;
    v_due_at := greatest(v_job.next_due_at, clock_timestamp());
    v_requeued := case when v_ids is null then 0 else
        bridge.requeue(p_webhook_id, v_ids, v_job.per_second, v_due_at, v_since, v_until) end;
    -- In the same transaction as the deliveries, so that a crash neither skips nor repeats any.
    update bridge.redeliveries
    set requeued = requeued + v_requeued,
        last_id = coalesce(v_last_id, last_id),
        batch_id = coalesce(v_ids[1], batch_id),
        next_due_at = v_due_at + make_interval(secs => v_requeued / per_second),
        finished_at = case when v_is_last then clock_timestamp() end
    where webhook_id = p_webhook_id;
end
$$;

COMMENT ON FUNCTION bridge.requeue_batch(p_webhook_id bigint) IS 'Internal, for redeliver_finished and continue_redelivery: moves the next batch of a webhook''s redelivery to the queue and notes its progress.';

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

COMMENT ON FUNCTION bridge.resume_webhook(p_webhook_id bigint) IS 'Makes a webhook deliver again at once: ends a pause, closes the breaker, and activates it if it was off or disabled.';

CREATE FUNCTION bridge.retry_dead_letter(p_dead_letter_id bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_letter bridge.dead_letters;
begin
    delete from bridge.dead_letters where id = p_dead_letter_id returning * into v_letter;
    if not found then
        raise 'there is no dead letter %', p_dead_letter_id using errcode = 'no_data_found';
    end if;
    if v_letter.webhook_id is not null
        and not exists (select from bridge.webhooks where id = v_letter.webhook_id) then
        raise 'the webhook of dead letter % is deleted', p_dead_letter_id
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    begin
        if v_letter.webhook_id is null then
            insert into bridge.outbox (event_type, payload, captured_at)
            values (v_letter.event_type, v_letter.payload, v_letter.captured_at);
        else
            insert into bridge.delivery_queue
                (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at)
            values (v_letter.webhook_id, v_letter.event_id, v_letter.event_recorded_at,
                    v_letter.event_type, v_letter.captured_at, v_letter.committed_at);
        end if;
    exception when others then
        if not bridge.is_of_values(sqlstate) then
            raise;
        end if;
        raise 'dead letter % cannot be retried: %', p_dead_letter_id, bridge.utf8_text(left(sqlerrm, 2000))
            using errcode = 'object_not_in_prerequisite_state';
    end;
    perform bridge.audit('dead_letter.retried', p_dead_letter_id, bridge.utf8_text(left(v_letter.event_type, 255)),
        jsonb_build_object('webhook_id', v_letter.webhook_id, 'reason', v_letter.reason));
    perform case when v_letter.webhook_id is null then bridge.ring() else bridge.wake_couriers() end;
end
$$;

COMMENT ON FUNCTION bridge.retry_dead_letter(p_dead_letter_id bigint) IS 'Puts an event back into the outbox, with its original type and time, or a delivery into the queue. If it fails again, it becomes a new dead letter.';

CREATE FUNCTION bridge.ring() RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select pg_notify('bridge_outbox', '') where pg_sequence_last_value('bridge.doorbell') = 0
$$;

COMMENT ON FUNCTION bridge.ring() IS 'The doorbell: notifies the drainer, at commit, that the outbox has rows, unless the doorbell is quiet. Call it after inserting the row: a transaction that saw "quiet" then has an xid, and the drainer waits for that xid before it stops polling. Triggers inline the same condition, which is faster.';

CREATE FUNCTION bridge.sequences_behind(p_event_id bigint, p_outbox_id bigint) RETURNS TABLE(sequence_name text, last_id bigint, used_id bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select s.name, s.last_id, used.id
    from (
        select name, coalesce(pg_sequence_last_value(name::regclass), 0) as last_id, given.used_id
        from (values
            ('bridge.event_id', p_event_id),
            ('bridge.outbox_id_seq', p_outbox_id),
            ('bridge.delivery_queue_id_seq', 0),
            ('bridge.webhooks_id_seq', 0),
            ('bridge.api_tokens_id_seq', 0),
            ('bridge.audit_log_id_seq', 0)
        ) as given(name, used_id)
    ) as s
    cross join lateral (
        select greatest(s.used_id, case s.name
            when 'bridge.event_id' then
                greatest((select max(id) from bridge.events), (select missing_through from bridge.log_start))
            when 'bridge.outbox_id_seq' then (select max(id) from bridge.outbox)
            when 'bridge.delivery_queue_id_seq' then
                greatest((select max(id) from bridge.delivery_queue), (select max(id) from bridge.delivery_log))
            when 'bridge.webhooks_id_seq' then (select max(id) from bridge.webhooks)
            when 'bridge.api_tokens_id_seq' then (select max(id) from bridge.api_tokens)
            when 'bridge.audit_log_id_seq' then (select max(id) from bridge.audit_log)
        end) as id
    ) as used
    where used.id > s.last_id
$$;

COMMENT ON FUNCTION bridge.sequences_behind(p_event_id bigint, p_outbox_id bigint) IS 'Returns sequences that would give out ids which are in use. The parameters are ids of events and of the outbox that are known to have been given out.';

CREATE FUNCTION bridge.set_event_aside(p_outbox_id bigint, p_reason text, OUT dead_letter_id bigint, OUT event_type text) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
    v_event bridge.outbox;
begin
    delete from bridge.outbox where id = p_outbox_id returning * into v_event;
    event_type := bridge.utf8_text(left(v_event.event_type, 255));
    -- The replacement of an event that was set aside: that dead letter is enough.
    select id into dead_letter_id
    from bridge.dead_letters
    where outbox_id = v_event.id and v_event.payload ? '_capture_error'
      and v_event.payload @> jsonb_build_object('dead_letter', id);
    if found or v_event.id is null then
        return;
    end if;
    insert into bridge.dead_letters (outbox_id, event_type, payload, captured_at, reason)
    values (v_event.id, v_event.event_type, v_event.payload, v_event.captured_at, p_reason)
    returning id into dead_letter_id;
    if event_type <> v_event.event_type then
        return; -- No client could read its type, or it is no type at all.
    end if;
    begin
        insert into bridge.outbox (id, event_type, payload, captured_at)
        overriding system value
        values (v_event.id, event_type,
                jsonb_build_object('_capture_error', p_reason, 'dead_letter', dead_letter_id),
                v_event.captured_at);
    exception when others then
        if not bridge.is_of_values(sqlstate) then
            raise;
        end if;
    end;
end
$$;

COMMENT ON FUNCTION bridge.set_event_aside(p_outbox_id bigint, p_reason text, OUT dead_letter_id bigint, OUT event_type text) IS 'Moves an event that the drain cannot process to dead_letters, and puts one with _capture_error in its place. If the drain cannot process that one either, it is deleted.';

CREATE FUNCTION bridge.settle_apart(p_delivery_id bigint, p_lease_token uuid, p_attempt_number integer, p_started_at timestamp with time zone, p_finished_at timestamp with time zone, p_outcome text, p_retry_seconds double precision, p_response_status integer, p_response_body text, p_failure text, p_error_message text, p_reason text) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_queued    bridge.delivery_queue;
    v_delivery  bridge.delivery_log;
    v_error     text := p_error_message;
begin
    select * into v_queued
    from bridge.delivery_queue
    where id = p_delivery_id and lease_token = p_lease_token
    for update;
    if not found then
        return null;
    end if;
    begin
        insert into bridge.delivery_attempts
            (delivery_id, webhook_id, attempt_number, started_at, finished_at,
             response_status, response_body, failure, error_message)
        values (p_delivery_id, v_queued.webhook_id, p_attempt_number, p_started_at, p_finished_at,
                p_response_status, p_response_body, p_failure, p_error_message);
    exception when others then
        if not bridge.is_of_values(sqlstate) then
            raise;
        end if;
    end;
    if p_outcome = 'retry' then
        begin
            update bridge.delivery_queue
            set attempt_number = p_attempt_number,
                next_attempt_at = now() + make_interval(secs => p_retry_seconds),
                leased_until = null,
                lease_token = null,
                response_status = p_response_status,
                response_body = p_response_body,
                error_message = p_error_message
            where id = p_delivery_id;
            return 'retry';
        exception when others then
            if not bridge.is_of_values(sqlstate) then
                raise;
            end if;
            v_error := 'cannot queue the next attempt: ' || bridge.utf8_text(left(sqlerrm, 2000));
        end;
    end if;
    v_delivery.id := v_queued.id;
    v_delivery.webhook_id := v_queued.webhook_id;
    v_delivery.event_id := v_queued.event_id;
    v_delivery.event_recorded_at := v_queued.event_recorded_at;
    v_delivery.event_type := v_queued.event_type;
    v_delivery.status := case when p_outcome = 'success' then 'success' else 'failed' end;
    v_delivery.captured_at := v_queued.captured_at;
    v_delivery.committed_at := v_queued.committed_at;
    v_delivery.created_at := v_queued.created_at;
    v_delivery.claimed_at := v_queued.claimed_at;
    v_delivery.sent_at := p_started_at;
    v_delivery.acknowledged_at := case when p_outcome = 'success' then p_finished_at end;
    v_delivery.finished_at := now();
    v_delivery.attempt_number := p_attempt_number;
    v_delivery.response_status := p_response_status;
    v_delivery.response_body := p_response_body;
    v_delivery.error_message := v_error;
    return bridge.log_apart(v_delivery, p_reason);
end
$$;

COMMENT ON FUNCTION bridge.settle_apart(p_delivery_id bigint, p_lease_token uuid, p_attempt_number integer, p_started_at timestamp with time zone, p_finished_at timestamp with time zone, p_outcome text, p_retry_seconds double precision, p_response_status integer, p_response_body text, p_failure text, p_error_message text, p_reason text) IS 'Settles one attempt that settle cannot: keeps as much of its result as the tables accept. It counts neither for the circuit breaker nor as an attempt of its webhook. Returns retry, success, failed or dead letter; null if the lease is lost.';

CREATE FUNCTION bridge.shift_times() RETURNS double precision
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

COMMENT ON FUNCTION bridge.shift_times() IS 'Moves stored times back if the server''s clock was set back since a bridge last looked: what waits or expires then does so after the time that was left. Returns by how many seconds; 0 if another bridge has done it. paced_until and probe_at are not moved: claim knows when they are too far ahead.';

CREATE FUNCTION bridge.storable_text(p_utf8 bytea) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_result text := '';
    v_at     integer := 0;
    v_byte   integer;
    v_length integer;
begin
    begin
        return convert_from(p_utf8, 'UTF8');
    exception when untranslatable_character then
        null; -- Search it.
    end;
    while v_at < octet_length(p_utf8) loop
        v_byte := get_byte(p_utf8, v_at);
        v_length := case when v_byte < 128 then 1 when v_byte < 224 then 2 when v_byte < 240 then 3 else 4 end;
        begin
            v_result := v_result || convert_from(substr(p_utf8, v_at + 1, v_length), 'UTF8');
        exception when untranslatable_character then
            v_result := v_result || '?';
        end;
        v_at := v_at + v_length;
    end loop;
    return v_result;
end
$$;

COMMENT ON FUNCTION bridge.storable_text(p_utf8 bytea) IS 'Returns a text in UTF-8 with each character that the database''s encoding does not have replaced by a question mark.';

CREATE FUNCTION bridge.take_note(p_topic text, p_key text) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_value jsonb;
begin
    if current_setting('transaction_isolation') = 'serializable' then
        return bridge.note_of_serializable(p_topic, p_key, true);
    end if;
    delete from bridge.transaction_notes
    where xact = pg_current_xact_id_if_assigned() and topic = p_topic and key = p_key
    returning value into v_value;
    return v_value;
end
$$;

COMMENT ON FUNCTION bridge.take_note(p_topic text, p_key text) IS 'Deletes the current transaction''s note and returns it, or null.';

CREATE FUNCTION bridge.takeover_obstacle(p_follower oid, p_leader oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

COMMENT ON FUNCTION bridge.takeover_obstacle(p_follower oid, p_leader oid) IS 'Returns what to do so that one role can see and end the sessions of another, or null if it can. A bridge needs that to take over from a leader that is frozen.';

CREATE FUNCTION bridge.to_filter(p_filter text) RETURNS jsonpath
    LANGUAGE plpgsql IMMUTABLE STRICT
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_problem text := bridge.filter_problem(p_filter);
begin
    if v_problem is not null then
        raise 'filter: %', v_problem
            using errcode = 'check_violation', column = 'filter', constraint = 'webhooks_filter_allowed';
    end if;
    return p_filter::jsonpath;
end
$$;

COMMENT ON FUNCTION bridge.to_filter(p_filter text) IS 'Returns a webhook''s filter from its text, or raises its filter_problem. Text of others must not be cast to jsonpath in any other way: parsing can take minutes.';

CREATE FUNCTION bridge.utf8_text(p_text text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_result text := '';
    v_at     integer := 1;
    v_until  integer;
    v_length integer;
begin
    begin
        perform convert_to(p_text, 'UTF8');
        return p_text;
    exception when untranslatable_character or character_not_in_repertoire then
        null; -- Search it. The time is quadratic, so callers limit the length.
    end;
    while v_at <= length(p_text) loop
        v_until := v_at + 1000;
        begin
            perform convert_to(substr(p_text, v_at, 1000), 'UTF8');
            v_result := v_result || substr(p_text, v_at, 1000);
            v_at := v_until;
        exception when untranslatable_character or character_not_in_repertoire then
            null; -- Search this part.
        end;
        while v_at < v_until and v_at <= length(p_text) loop
            v_length := 1;
            while v_length <= 4 loop
                begin
                    perform convert_to(substr(p_text, v_at, v_length), 'UTF8');
                    exit;
                exception when untranslatable_character or character_not_in_repertoire then
                    -- In SQL_ASCII, every byte counts as a character.
                    v_length := v_length + 1;
                end;
            end loop;
            if v_length <= 4 then
                v_result := v_result || substr(p_text, v_at, v_length);
                v_at := v_at + v_length;
            else
                v_result := v_result || '<'
                    || encode(convert_to(substr(p_text, v_at, 1), getdatabaseencoding()), 'hex') || '>';
                v_at := v_at + 1;
            end if;
        end loop;
    end loop;
    return v_result;
end
$$;

COMMENT ON FUNCTION bridge.utf8_text(p_text text) IS 'Returns a text with each character that UTF-8 does not have replaced by its bytes in hexadecimal, such as <98>. Only databases with another encoding have such characters.';

CREATE FUNCTION bridge.wake_couriers() RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select pg_notify('bridge_deliveries', '')
$$;

COMMENT ON FUNCTION bridge.wake_couriers() IS 'Makes the bridges look for due deliveries now instead of at the next poll.';

CREATE FUNCTION bridge.watch_clock(p_elapsed_seconds double precision, OUT step_seconds double precision, OUT may_delete boolean) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

COMMENT ON FUNCTION bridge.watch_clock(p_elapsed_seconds double precision, OUT step_seconds double precision, OUT may_delete boolean) IS 'Notes the time. step_seconds: by how much the clock was changed since a bridge last looked; 0: by nothing to speak of; negative: shift_times() must be called. may_delete: whether what has expired can be deleted. p_elapsed_seconds is the time since the calling bridge last looked, by another clock; null: it has not looked before, so that a step forward looks like a time without a bridge.';

CREATE FUNCTION bridge.without_controls(p_text text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select regexp_replace(
        p_text, '[\u0001-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]', '?', 'g')
$$;

COMMENT ON FUNCTION bridge.without_controls(p_text text) IS 'Replaces control characters, line separators and characters that change the direction of writing by ?.';

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

COMMENT ON TABLE bridge.activity IS 'Activity of each bridge process, one row per ten seconds. A bridge is running if its newest row is at most 30 s old and not its last. Rows are kept for 25 hours: 9,000 rows of up to 600 bytes per process, 6 MB with the index. Only bridges write here; no trigger reads it.';

COMMENT ON COLUMN bridge.activity.recorded_at IS 'When the row was written, by the database''s clock: the end of its interval.';

COMMENT ON COLUMN bridge.activity.bridge IS 'Host and process id, as host:pid, as in drainer.';

COMMENT ON COLUMN bridge.activity.version IS 'Version of pgbridge.';

COMMENT ON COLUMN bridge.activity.seconds IS 'Length of the interval. More than ten after the database was unreachable: the next row then covers the gap.';

COMMENT ON COLUMN bridge.activity.is_last IS 'The bridge shut down normally; no row of it follows.';

COMMENT ON COLUMN bridge.activity.clients IS 'Connected WebSocket clients at the end of the interval.';

COMMENT ON COLUMN bridge.activity.in_flight IS 'Deliveries being sent or about to be settled at the end of the interval.';

COMMENT ON COLUMN bridge.activity.clients_dropped IS 'Clients that the bridge disconnected or gave up on.';

COMMENT ON COLUMN bridge.activity.events_drained IS 'Events moved from the outbox to the log.';

COMMENT ON COLUMN bridge.activity.events_streamed IS 'Events sent to clients: one event to ten clients counts as ten.';

COMMENT ON COLUMN bridge.activity.delivered IS 'Delivery attempts that succeeded.';

COMMENT ON COLUMN bridge.activity.retried IS 'Delivery attempts that failed and will be retried.';

COMMENT ON COLUMN bridge.activity.failed IS 'Delivery attempts that failed and were the last.';

COMMENT ON COLUMN bridge.activity.commit_to_client IS 'Histogram of the time from an event''s capture until it was sent to the clients of this bridge; null: no events. Element n counts events above bound n - 1 and up to bound n. Bounds in seconds: 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 3600, infinity.';

COMMENT ON COLUMN bridge.activity.commit_to_acknowledged IS 'Histogram of the time from an event''s commit to the receiver''s 2xx, with the same bounds.';

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
    CONSTRAINT api_tokens_name_without_controls CHECK ((name !~ '[\u0001-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]'::text)),
    CONSTRAINT api_tokens_scopes_known CHECK (bridge.are_scopes(scopes))
);

COMMENT ON TABLE bridge.api_tokens IS 'Tokens for REST and WebSocket. A token is shown once and not stored.';

COMMENT ON COLUMN bridge.api_tokens.token_hash IS 'SHA-256 of the token. Tokens are 256 random bits, so a fast hash is safe.';

COMMENT ON COLUMN bridge.api_tokens.prefix IS 'First characters of the token, so that people can recognise it.';

COMMENT ON COLUMN bridge.api_tokens.scopes IS 'What it may do: events:read; events:read:ticket.* for some event types; webhooks:read; webhooks:write, which includes webhooks:read; admin, which includes everything.';

COMMENT ON COLUMN bridge.api_tokens.last_used_at IS 'Updated at most once a minute.';

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

COMMENT ON TABLE bridge.audit_log IS 'Changes to webhooks, tokens and capture rules, and redeliveries. Triggers write it in the transaction of the change, whatever made the change.';

COMMENT ON COLUMN bridge.audit_log.action IS 'Kind of object and verb: webhook.updated, token.created, delivery.redelivered.';

COMMENT ON COLUMN bridge.audit_log.target IS 'The object''s name at that time.';

COMMENT ON COLUMN bridge.audit_log.via IS 'api; console; cli: a pgbridge command; sql: any other database session; bridge: pgbridge itself, for example when it disables a webhook that has failed for days.';

COMMENT ON COLUMN bridge.audit_log.actor IS 'The token (source, id and name) or, for a command, user and host. Reported by the client and not verified; db_role is the role that logged in to the database.';

COMMENT ON COLUMN bridge.audit_log.address IS 'Client address of the request.';

COMMENT ON COLUMN bridge.audit_log.changes IS 'For each changed column: {"from": …, "to": …}. Of secrets, only whether there is one.';

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

COMMENT ON VIEW bridge.backlog IS 'Pending deliveries of each webhook.';

COMMENT ON COLUMN bridge.backlog.pending IS 'Unfinished deliveries: in flight, due, waiting for a retry or for their turn.';

COMMENT ON COLUMN bridge.backlog.due IS 'Deliveries that could be sent now, if the webhook''s limits, pause and breaker allow it.';

COMMENT ON COLUMN bridge.backlog.oldest_created_at IS 'When the oldest of them was created. Redeliveries do not count, because they keep their original time.';

COMMENT ON COLUMN bridge.backlog.oldest_seconds IS 'Seconds since oldest_created_at.';

CREATE TABLE bridge.capture_rules (
    name text NOT NULL,
    table_name text NOT NULL,
    trigger_name text NOT NULL,
    function_name text NOT NULL,
    trigger_sql text NOT NULL,
    function_sql text NOT NULL,
    trigger_definition text,
    function_definition text,
    applied_at timestamp with time zone DEFAULT now() NOT NULL,
    paused_at timestamp with time zone,
    failure_count bigint DEFAULT 0 NOT NULL,
    last_failed_at timestamp with time zone,
    last_error text
);

COMMENT ON TABLE bridge.capture_rules IS 'The installed capture rules. init compares them with its configuration; uninstall removes them.';

COMMENT ON COLUMN bridge.capture_rules.table_name IS 'The application''s table, quoted and schema-qualified.';

COMMENT ON COLUMN bridge.capture_rules.trigger_sql IS 'The CREATE TRIGGER statement that created the trigger.';

COMMENT ON COLUMN bridge.capture_rules.function_sql IS 'The CREATE FUNCTION statement of the active rule. resume runs it again.';

COMMENT ON COLUMN bridge.capture_rules.trigger_definition IS 'pg_get_triggerdef() after creation. If it returns something else now, the trigger was changed by hand.';

COMMENT ON COLUMN bridge.capture_rules.function_definition IS 'pg_get_functiondef() after creation or after the last pause or resume.';

COMMENT ON COLUMN bridge.capture_rules.paused_at IS 'When the rule was paused; null if it is active. Changes made while a rule is paused are never captured.';

COMMENT ON COLUMN bridge.capture_rules.failure_count IS 'Events of this rule whose payload could not be computed, since the rule was last applied.';

COMMENT ON COLUMN bridge.capture_rules.last_error IS 'Error message of the most recent failure.';

CREATE TABLE bridge.clock (
    is_only boolean DEFAULT true NOT NULL,
    seen_at timestamp with time zone,
    kept_until timestamp with time zone,
    CONSTRAINT clock_is_only CHECK (is_only)
);

COMMENT ON TABLE bridge.clock IS 'What bridges know about the clock of this server: one row.';

COMMENT ON COLUMN bridge.clock.seen_at IS 'The time when a bridge last looked. If it is later than now, the clock was set back.';

COMMENT ON COLUMN bridge.clock.kept_until IS 'Until then, nothing that has expired is deleted: the clock was set forward, or no bridge has looked for a day, and the time may be wrong. Null: no wait.';

CREATE UNLOGGED TABLE bridge.console_sessions (
    session_hash bytea NOT NULL,
    token_source text NOT NULL,
    token_id bigint,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT console_sessions_token_source_known CHECK ((token_source = ANY (ARRAY['bridge'::text, 'bot'::text, 'setting'::text])))
);

COMMENT ON TABLE bridge.console_sessions IS 'Signed-in browsers of the console. A session has the rights of its token, for as long as the token is valid. Unlogged: after a crash, people sign in again.';

COMMENT ON COLUMN bridge.console_sessions.session_hash IS 'SHA-256 of the cookie, which is 256 random bits. For a session of BRIDGE_TOKEN: HMAC of that hash, keyed with BRIDGE_TOKEN, so that changing the setting invalidates it.';

COMMENT ON COLUMN bridge.console_sessions.token_source IS 'Where the token is that signed in. bridge: api_tokens; bot: public.web_api_tokens; setting: BRIDGE_TOKEN.';

COMMENT ON COLUMN bridge.console_sessions.token_id IS 'The token''s id in its source; its rights are looked up on every request. Null for setting.';

CREATE TABLE bridge.couriers (
    id bigint NOT NULL,
    bridge text NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE bridge.couriers IS 'The processes that deliver, one row each. A process lives as long as one of its sessions holds the advisory lock with its id. The row of one that died stays for minutes, until others have sent its deliveries.';

COMMENT ON COLUMN bridge.couriers.id IS 'Random and new for every process: the key of the advisory lock.';

COMMENT ON COLUMN bridge.couriers.bridge IS 'host:pid.';

CREATE TABLE bridge.dead_letters (
    outbox_id bigint,
    event_type text NOT NULL,
    payload jsonb,
    captured_at timestamp with time zone NOT NULL,
    reason text NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    id bigint NOT NULL,
    webhook_id bigint,
    event_id bigint,
    event_recorded_at timestamp with time zone,
    committed_at timestamp with time zone,
    CONSTRAINT dead_letters_kind_known CHECK ((((num_nonnulls(outbox_id, payload) = 2) AND (num_nonnulls(webhook_id, event_id, event_recorded_at) = 0)) OR ((num_nonnulls(outbox_id, payload) = 0) AND (num_nonnulls(webhook_id, event_id, event_recorded_at) = 3))))
);

COMMENT ON TABLE bridge.dead_letters IS 'Events that PostgreSQL could not process in the drain, and deliveries that it could neither queue nor log. An event with _capture_error took the place of each event, unless that failed as well.';

COMMENT ON COLUMN bridge.dead_letters.outbox_id IS 'The event''s outbox.id; null for a delivery.';

COMMENT ON COLUMN bridge.dead_letters.payload IS 'The event''s original payload; null for a delivery. Reading it as text may fail as well.';

COMMENT ON COLUMN bridge.dead_letters.captured_at IS 'When the trigger fired.';

COMMENT ON COLUMN bridge.dead_letters.reason IS 'PostgreSQL''s error.';

COMMENT ON COLUMN bridge.dead_letters.webhook_id IS 'The delivery''s webhook; null for an event.';

COMMENT ON COLUMN bridge.dead_letters.event_id IS 'The delivery''s event in the log; null for an event.';

COMMENT ON COLUMN bridge.dead_letters.event_recorded_at IS 'events.recorded_at of the delivery''s event.';

COMMENT ON COLUMN bridge.dead_letters.committed_at IS 'delivery_queue.committed_at of a delivery.';

ALTER TABLE bridge.dead_letters ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME bridge.dead_letters_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE bridge.deleted_webhooks (
    id bigint NOT NULL,
    name text NOT NULL,
    url text NOT NULL,
    event_type text NOT NULL,
    deleted_at timestamp with time zone NOT NULL,
    delivered_count bigint NOT NULL,
    failed_count bigint NOT NULL
);

COMMENT ON TABLE bridge.deleted_webhooks IS 'Deleted webhooks that still have deliveries in the log, and how many. A row is deleted with the last of them.';

CREATE TABLE bridge.delivery_attempts (
    delivery_id bigint NOT NULL,
    webhook_id bigint NOT NULL,
    attempt_number integer NOT NULL,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone NOT NULL,
    response_status integer,
    response_body text,
    failure text,
    error_message text
)
PARTITION BY RANGE (finished_at);

COMMENT ON TABLE bridge.delivery_attempts IS 'Every HTTP attempt, one row each.';

COMMENT ON COLUMN bridge.delivery_attempts.started_at IS 'When it began to connect or to send, by the database''s clock.';

COMMENT ON COLUMN bridge.delivery_attempts.finished_at IS 'When the response was complete or the attempt failed.';

COMMENT ON COLUMN bridge.delivery_attempts.response_body IS 'First 16 KiB of the response.';

COMMENT ON COLUMN bridge.delivery_attempts.failure IS 'Kind of failure: http_4xx, http_5xx, timeout_connect, dns, … (listed in bridge/delivery/retry.py); null on success.';

COMMENT ON COLUMN bridge.delivery_attempts.error_message IS 'Why the attempt failed; null on success.';

CREATE TABLE bridge.delivery_log_failed (
    id bigint CONSTRAINT delivery_log_id_not_null NOT NULL,
    webhook_id bigint CONSTRAINT delivery_log_webhook_id_not_null NOT NULL,
    event_id bigint CONSTRAINT delivery_log_event_id_not_null NOT NULL,
    event_recorded_at timestamp with time zone CONSTRAINT delivery_log_event_recorded_at_not_null NOT NULL,
    event_type text CONSTRAINT delivery_log_event_type_not_null NOT NULL,
    status text CONSTRAINT delivery_log_status_not_null NOT NULL,
    captured_at timestamp with time zone,
    committed_at timestamp with time zone,
    created_at timestamp with time zone CONSTRAINT delivery_log_created_at_not_null NOT NULL,
    claimed_at timestamp with time zone,
    sent_at timestamp with time zone,
    acknowledged_at timestamp with time zone,
    finished_at timestamp with time zone DEFAULT now() CONSTRAINT delivery_log_finished_at_not_null NOT NULL,
    attempt_number integer CONSTRAINT delivery_log_attempt_number_not_null NOT NULL,
    response_status integer,
    response_body text,
    error_message text,
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
    captured_at timestamp with time zone,
    committed_at timestamp with time zone,
    created_at timestamp with time zone CONSTRAINT delivery_log_created_at_not_null NOT NULL,
    claimed_at timestamp with time zone,
    sent_at timestamp with time zone,
    acknowledged_at timestamp with time zone,
    finished_at timestamp with time zone DEFAULT now() CONSTRAINT delivery_log_finished_at_not_null NOT NULL,
    attempt_number integer CONSTRAINT delivery_log_attempt_number_not_null NOT NULL,
    response_status integer,
    response_body text,
    error_message text,
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
    captured_at timestamp with time zone,
    committed_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    is_redelivery boolean DEFAULT false NOT NULL,
    next_attempt_at timestamp with time zone DEFAULT now() NOT NULL,
    claimed_at timestamp with time zone,
    leased_until timestamp with time zone,
    lease_token uuid,
    attempt_number integer DEFAULT 0 NOT NULL,
    attempts_before integer DEFAULT 0 NOT NULL,
    response_status integer,
    response_body text,
    error_message text,
    lease_owner bigint,
    CONSTRAINT delivery_queue_lease_whole CHECK (((leased_until IS NULL) = (lease_token IS NULL)))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='2000');

COMMENT ON TABLE bridge.delivery_queue IS 'Pending deliveries, one row each: the drain inserts, a courier leases, settle deletes.';

COMMENT ON COLUMN bridge.delivery_queue.event_recorded_at IS 'events.recorded_at. With event_id it finds the event in one partition.';

COMMENT ON COLUMN bridge.delivery_queue.captured_at IS 'events.occurred_at.';

COMMENT ON COLUMN bridge.delivery_queue.committed_at IS 'events.committed_at or, if that is unknown, captured_at, which is slightly earlier.';

COMMENT ON COLUMN bridge.delivery_queue.is_redelivery IS 'Requeued by redeliver or redeliver_failed. New deliveries go first.';

COMMENT ON COLUMN bridge.delivery_queue.next_attempt_at IS 'Do not send before this time.';

COMMENT ON COLUMN bridge.delivery_queue.claimed_at IS 'When a courier claimed it for its last attempt.';

COMMENT ON COLUMN bridge.delivery_queue.leased_until IS 'A courier works on it until this time at most. After that, any courier may claim it. Null: free.';

COMMENT ON COLUMN bridge.delivery_queue.lease_token IS 'Identifies the lease. A result is accepted only with the current token.';

COMMENT ON COLUMN bridge.delivery_queue.attempt_number IS 'Attempts so far.';

COMMENT ON COLUMN bridge.delivery_queue.attempts_before IS 'Attempts before it was redelivered. The retry schedule starts over after them.';

COMMENT ON COLUMN bridge.delivery_queue.response_status IS 'HTTP status of the last attempt.';

COMMENT ON COLUMN bridge.delivery_queue.lease_owner IS 'The courier that leased it (couriers.id). When that has died, any courier may claim it. Null: unknown, or not leased.';

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

COMMENT ON SEQUENCE bridge.doorbell IS 'Whether triggers send NOTIFY: last_value 0 rings, 1 is quiet. A commit with NOTIFY holds a cluster-wide lock until its WAL is flushed, so the drainer silences the doorbell under load and polls instead. A sequence because setval() takes effect at once and pg_sequence_last_value() reads a single buffer.';

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

COMMENT ON TABLE bridge.drainer IS 'The bridge that drains the outbox, or drained it last: one row. leader_pid() tells whether it still does.';

COMMENT ON COLUMN bridge.drainer.is_only IS 'Always true, so that there is only one row.';

COMMENT ON COLUMN bridge.drainer.bridge IS 'Host and process id, as host:pid.';

COMMENT ON COLUMN bridge.drainer.mode IS 'BRIDGE_DOORBELL. adaptive: rings while events are rare, polls while they are frequent. notify: always rings. poll: never rings.';

COMMENT ON COLUMN bridge.drainer.is_quiet IS 'The current doorbell setting.';

COMMENT ON COLUMN bridge.drainer.switches IS 'How often the doorbell was switched since leading_since.';

COMMENT ON COLUMN bridge.drainer.switched_at IS 'When the doorbell was last set.';

CREATE TABLE bridge.events (
    id bigint NOT NULL,
    event_type text NOT NULL,
    payload jsonb NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    committed_at timestamp with time zone,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL
)
PARTITION BY RANGE (recorded_at);
ALTER TABLE ONLY bridge.events ALTER COLUMN payload SET STORAGE EXTERNAL;

COMMENT ON TABLE bridge.events IS 'The event log, in commit order by id. Rows are never updated; whole days are dropped when they expire.';

COMMENT ON COLUMN bridge.events.occurred_at IS 'When the trigger fired: at the application''s statement or, for a deferred rule, at its commit.';

COMMENT ON COLUMN bridge.events.committed_at IS 'When the application''s transaction committed. Null unless the server has track_commit_timestamp on.';

COMMENT ON COLUMN bridge.events.recorded_at IS 'When the drain moved the event from the outbox to this log.';

CREATE SEQUENCE bridge.event_id
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE bridge.event_id OWNED BY bridge.events.id;

COMMENT ON SEQUENCE bridge.event_id IS 'The last event id. Each drain assigns ids above it and above all that its bridge has published, and then moves it; so their order is the order in which commits became visible.';

CREATE TABLE bridge.leader (
    is_only boolean DEFAULT true NOT NULL,
    pid integer NOT NULL,
    role_id oid NOT NULL,
    lock_key bigint NOT NULL,
    CONSTRAINT leader_is_only CHECK (is_only)
);

COMMENT ON TABLE bridge.leader IS 'The session that may drain: one row, written by lead(). It leads for as long as the session with this pid and role holds the advisory lock with this key. Other sessions can see the key and even take the lock later, but they are not the session named here.';

COMMENT ON COLUMN bridge.leader.is_only IS 'Always true, so that there is only one row.';

COMMENT ON COLUMN bridge.leader.role_id IS 'The role that logged in (pg_roles.oid), because process ids are reused, possibly by other roles.';

COMMENT ON COLUMN bridge.leader.lock_key IS 'Random and new for every leader, so that no session can have taken the lock in advance.';

CREATE TABLE bridge.log_start (
    is_only boolean DEFAULT true NOT NULL,
    missing_through bigint DEFAULT 0 NOT NULL,
    CONSTRAINT log_start_is_only CHECK (is_only)
);

COMMENT ON TABLE bridge.log_start IS 'Where the complete part of the event log begins: one row. log_bounds() reads it.';

COMMENT ON COLUMN bridge.log_start.missing_through IS 'The newest event that was dropped: events up to this id may be missing. Maintained by drop_expired_partition and create_partitions.';

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

COMMENT ON TABLE bridge.outbox IS 'Queue of captured events: triggers insert, the drain deletes. Almost empty in normal operation.';

COMMENT ON COLUMN bridge.outbox.id IS 'Insertion order, not commit order: a smaller id may become visible after a larger one.';

COMMENT ON COLUMN bridge.outbox.payload IS 'jsonb rather than json: text that jsonb rejects fails inside the trigger, which catches the error, and not in the drain.';

COMMENT ON COLUMN bridge.outbox.captured_at IS 'Wall-clock time when the trigger fired.';

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

COMMENT ON TABLE bridge.partitioned_logs IS 'Tables of this schema that are partitioned by UTC day.';

CREATE TABLE bridge.redelivery_lock (
);

COMMENT ON TABLE bridge.redelivery_lock IS 'Empty; used only as a lock. requeue takes it in row exclusive mode, which any number of sessions can share; drop_expired_partition takes it in share row exclusive mode, which excludes them. The first needs the INSERT privilege.';

CREATE UNLOGGED TABLE bridge.transaction_notes (
    xact xid8 DEFAULT pg_current_xact_id() NOT NULL,
    topic text NOT NULL,
    key text NOT NULL,
    value jsonb
);

COMMENT ON TABLE bridge.transaction_notes IS 'Notes that one rule leaves for another within a transaction, such as "this ticket was opened here". Unlogged: a note is meaningless once its transaction has ended, and a crash ends every transaction. Upkeep deletes old notes.';

COMMENT ON COLUMN bridge.transaction_notes.xact IS 'The transaction that wrote the note. Only it reads the note.';

COMMENT ON COLUMN bridge.transaction_notes.value IS 'Null: a serializable transaction looked for this note and did not find it, or has taken it.';

CREATE TABLE bridge.uncounted_successes (
    id bigint NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    webhook_ids bigint[] NOT NULL,
    attempts bigint[] NOT NULL,
    delivered bigint[] NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='2000');

COMMENT ON TABLE bridge.uncounted_successes IS 'Successes that the counters of webhooks do not include yet: settle inserts a row per batch, count_successes adds it to webhooks within a second or so.';

COMMENT ON COLUMN bridge.uncounted_successes.recorded_at IS 'When it was inserted. After a minute, its bridge is gone, and any other counts it.';

COMMENT ON COLUMN bridge.uncounted_successes.attempts IS 'For each webhook of webhook_ids: for success_count.';

COMMENT ON COLUMN bridge.uncounted_successes.delivered IS 'For each webhook of webhook_ids: for delivered_count.';

ALTER TABLE bridge.uncounted_successes ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME bridge.uncounted_successes_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

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

COMMENT ON COLUMN bridge.webhook_deliveries.committed_at IS 'When the event was committed, or captured if the server does not track commit timestamps.';

COMMENT ON COLUMN bridge.webhook_deliveries.captured_at IS 'When the trigger fired.';

COMMENT ON COLUMN bridge.webhook_deliveries.claimed_at IS 'When a courier claimed it for its last attempt.';

COMMENT ON COLUMN bridge.webhook_deliveries.sent_at IS 'When the last attempt began; null while pending.';

COMMENT ON COLUMN bridge.webhook_deliveries.acknowledged_at IS 'When the receiver''s 2xx arrived.';

COMMENT ON COLUMN bridge.webhook_deliveries.finished_at IS 'When it succeeded or was given up; null while pending. Retention and redeliver_failed go by this time.';

CREATE TABLE bridge.webhooks (
    id bigint NOT NULL,
    name text NOT NULL,
    url text NOT NULL,
    event_type text NOT NULL,
    filter jsonpath,
    description text,
    secret text,
    previous_secret text,
    previous_secret_expires_at timestamp with time zone,
    is_active boolean DEFAULT true NOT NULL,
    disabled_reason text,
    paused_at timestamp with time zone,
    timeout_seconds integer DEFAULT 15 NOT NULL,
    max_concurrency integer DEFAULT 4 NOT NULL,
    rate_per_second double precision,
    ordered boolean DEFAULT false NOT NULL,
    retry_schedule double precision[],
    failure_share real DEFAULT 0 NOT NULL,
    failing_since timestamp with time zone,
    probe_at timestamp with time zone,
    paced_until timestamp with time zone,
    success_count bigint DEFAULT 0 NOT NULL,
    failure_count bigint DEFAULT 0 NOT NULL,
    delivered_count bigint DEFAULT 0 NOT NULL,
    failed_count bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    last_triggered_at timestamp with time zone,
    state text GENERATED ALWAYS AS (
CASE
    WHEN ((NOT is_active) AND (disabled_reason IS NOT NULL)) THEN 'disabled'::text
    WHEN (NOT is_active) THEN 'off'::text
    WHEN (paused_at IS NOT NULL) THEN 'paused'::text
    WHEN (probe_at IS NOT NULL) THEN 'failing'::text
    ELSE 'delivering'::text
END) STORED NOT NULL,
    CONSTRAINT webhooks_failure_share_range CHECK (((failure_share >= (0)::double precision) AND (failure_share <= (1)::double precision))),
    CONSTRAINT webhooks_max_concurrency_range CHECK (((max_concurrency >= 1) AND (max_concurrency <= 1000))),
    CONSTRAINT webhooks_previous_secret_whole CHECK ((((previous_secret IS NULL) = (previous_secret_expires_at IS NULL)) AND (previous_secret <> ''::text))),
    CONSTRAINT webhooks_rate_per_second_range CHECK (((rate_per_second >= (0.001)::double precision) AND (rate_per_second <= (100000)::double precision))),
    CONSTRAINT webhooks_retry_schedule_range CHECK ((((cardinality(retry_schedule) >= 1) AND (cardinality(retry_schedule) <= 100)) AND (array_ndims(retry_schedule) = 1) AND (array_position(retry_schedule, NULL::double precision) IS NULL) AND ((0)::double precision <= ALL (retry_schedule)) AND ((2592000)::double precision >= ALL (retry_schedule)))),
    CONSTRAINT webhooks_secret_not_empty CHECK ((secret <> ''::text)),
    CONSTRAINT webhooks_texts_readable CHECK (((getdatabaseencoding() = 'UTF8'::name) OR (bridge.utf8_text(concat_ws(' '::text, name, url, event_type, description, (filter)::text, secret, previous_secret)) = concat_ws(' '::text, name, url, event_type, description, (filter)::text, secret, previous_secret)))),
    CONSTRAINT webhooks_texts_without_controls CHECK (((((name || url) || event_type) || COALESCE(translate(description, ((chr(9) || chr(10)) || chr(13)), ''::text), ''::text)) !~ '[\u0001-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]'::text)),
    CONSTRAINT webhooks_timeout_seconds_range CHECK (((timeout_seconds >= 1) AND (timeout_seconds <= 120)))
)
WITH (fillfactor='50');

COMMENT ON TABLE bridge.webhooks IS 'Where events go: one row is one receiver of one event type or pattern.';

COMMENT ON COLUMN bridge.webhooks.event_type IS 'An exact type (ticket.created) or a pattern (ticket.*, *).';

COMMENT ON COLUMN bridge.webhooks.filter IS 'A condition on the payload, such as $.amount_kopeks >= 100000. Only events for which it is true are delivered; an error counts as false. filter_problem says what is not allowed.';

COMMENT ON COLUMN bridge.webhooks.secret IS 'Signing key; null: requests are not signed. Encrypted if it begins with fernet:.';

COMMENT ON COLUMN bridge.webhooks.previous_secret IS 'The signing key before the last rotation. Requests are signed with both keys until previous_secret_expires_at.';

COMMENT ON COLUMN bridge.webhooks.is_active IS 'Only active webhooks get new deliveries. Deliveries queued for an inactive webhook are kept, and sent when it is activated.';

COMMENT ON COLUMN bridge.webhooks.disabled_reason IS 'Why the bridge set is_active to false; null if it did not.';

COMMENT ON COLUMN bridge.webhooks.paused_at IS 'When the webhook was paused; null if it is not paused. Unlike an inactive webhook, a paused one still gets new deliveries. All of them wait.';

COMMENT ON COLUMN bridge.webhooks.timeout_seconds IS 'Deadline of a whole attempt, from connecting to the end of the response.';

COMMENT ON COLUMN bridge.webhooks.max_concurrency IS 'Most attempts in flight to this webhook, per bridge.';

COMMENT ON COLUMN bridge.webhooks.rate_per_second IS 'Most attempts per second, over all bridges; bursts of one second''s worth are allowed. Null: unlimited.';

COMMENT ON COLUMN bridge.webhooks.ordered IS 'Deliver in event order, one attempt at a time: each delivery waits until the previous one succeeded or was given up.';

COMMENT ON COLUMN bridge.webhooks.retry_schedule IS 'Seconds to wait before each attempt, including the first. Its length is the number of attempts. Null: BRIDGE_RETRY_SCHEDULE.';

COMMENT ON COLUMN bridge.webhooks.failure_share IS 'Share of recent attempts that failed, as a moving average over about ten attempts: each new attempt weighs one tenth. The higher it is, the fewer attempts are in flight at once.';

COMMENT ON COLUMN bridge.webhooks.failing_since IS 'Start of the first failed attempt since the last success, later by the time of long pauses in which nothing was attempted; null if the last attempt succeeded or none was made.';

COMMENT ON COLUMN bridge.webhooks.probe_at IS 'The circuit breaker. Null: closed. Otherwise it is open: deliveries wait, and from this time on one is tried, to find out whether the receiver has recovered.';

COMMENT ON COLUMN bridge.webhooks.paced_until IS 'With rate_per_second: until when claimed deliveries use up the rate. Null: no claim yet.';

COMMENT ON COLUMN bridge.webhooks.success_count IS 'Attempts answered with 2xx, since creation; under load, up to about a second ago.';

COMMENT ON COLUMN bridge.webhooks.failure_count IS 'Attempts that failed, since creation.';

COMMENT ON COLUMN bridge.webhooks.delivered_count IS 'Successful deliveries in the log; under load, up to about a second ago. Maintained by settle, count_successes, requeue and drop_expired_partition, so that the log need not be counted.';

COMMENT ON COLUMN bridge.webhooks.failed_count IS 'Deliveries in the log that were given up.';

COMMENT ON COLUMN bridge.webhooks.last_triggered_at IS 'When the last attempt ended.';

COMMENT ON COLUMN bridge.webhooks.state IS 'delivering; failing: the breaker is open, and one delivery is tried at probe_at; paused: by pause_webhook; disabled: by the bridge, see disabled_reason; off: by an operator.';

CREATE VIEW bridge.webhook_health AS
 SELECT w.id AS webhook_id,
    w.name,
    w.state,
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

COMMENT ON VIEW bridge.webhook_health IS 'How each webhook is doing: its state, its backlog, and its last hour and day. Rates are percentages of attempts; durations are seconds.';

COMMENT ON COLUMN bridge.webhook_health.state IS 'webhooks.state.';

COMMENT ON COLUMN bridge.webhook_health.commit_to_acknowledged_p95_hour IS 'Seconds from the application''s commit to the receiver''s 2xx, including retries and waiting.';

COMMENT ON COLUMN bridge.webhook_health.answer_p95_hour IS 'Seconds per attempt, including failed ones: the latency of the receiver and of the network to it.';

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

COMMENT ON TABLE bridge.ws_tickets IS 'Single-use tickets that open a WebSocket and expire within seconds, so that tokens stay out of URLs. Unlogged: after a crash, clients request new ones.';

COMMENT ON COLUMN bridge.ws_tickets.ticket_hash IS 'SHA-256 of the ticket, which is 256 random bits. For a ticket of BRIDGE_TOKEN: HMAC of that hash, keyed with BRIDGE_TOKEN, so that changing the setting invalidates it.';

COMMENT ON COLUMN bridge.ws_tickets.token_source IS 'Where the token is that requested the ticket. bridge: api_tokens; bot: public.web_api_tokens; setting: BRIDGE_TOKEN.';

COMMENT ON COLUMN bridge.ws_tickets.token_id IS 'The token''s id in its source; its rights are looked up when the ticket is used. Null for setting.';

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

ALTER TABLE ONLY bridge.clock
    ADD CONSTRAINT clock_pkey PRIMARY KEY (is_only);

ALTER TABLE ONLY bridge.console_sessions
    ADD CONSTRAINT console_sessions_pkey PRIMARY KEY (session_hash);

ALTER TABLE ONLY bridge.couriers
    ADD CONSTRAINT couriers_pkey PRIMARY KEY (id);

ALTER TABLE ONLY bridge.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (id);

ALTER TABLE ONLY bridge.deferred_events
    ADD CONSTRAINT deferred_events_pkey PRIMARY KEY (event_id);

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

ALTER TABLE ONLY bridge.log_start
    ADD CONSTRAINT log_start_pkey PRIMARY KEY (is_only);

ALTER TABLE ONLY bridge.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY bridge.partitioned_logs
    ADD CONSTRAINT partitioned_logs_pkey PRIMARY KEY (parent);

ALTER TABLE ONLY bridge.redeliveries
    ADD CONSTRAINT redeliveries_pkey PRIMARY KEY (webhook_id);

ALTER TABLE ONLY bridge.transaction_notes
    ADD CONSTRAINT transaction_notes_pkey PRIMARY KEY (xact, topic, key);

ALTER TABLE ONLY bridge.uncounted_successes
    ADD CONSTRAINT uncounted_successes_pkey PRIMARY KEY (id);

ALTER TABLE ONLY bridge.webhooks
    ADD CONSTRAINT webhooks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY bridge.ws_tickets
    ADD CONSTRAINT ws_tickets_pkey PRIMARY KEY (ticket_hash);

COMMENT ON INDEX bridge.activity_pkey IS 'running_bridges, activity: the newest rows. forget_activity: the oldest.';

COMMENT ON INDEX bridge.api_tokens_token_hash_key IS 'authenticate: the token of a request.';

CREATE INDEX audit_log_changed_at ON bridge.audit_log USING brin (changed_at);

COMMENT ON INDEX bridge.audit_log_changed_at IS 'forget_audit: expired entries.';

COMMENT ON INDEX bridge.audit_log_pkey IS 'list_audit: newest first.';

CREATE INDEX console_sessions_expiry ON bridge.console_sessions USING btree (expires_at);

COMMENT ON INDEX bridge.console_sessions_expiry IS 'create_session: expired sessions.';

COMMENT ON INDEX bridge.console_sessions_pkey IS 'use_session: the cookie of a browser.';

CREATE INDEX dead_letters_outbox_id ON bridge.dead_letters USING btree (outbox_id);

COMMENT ON INDEX bridge.dead_letters_outbox_id IS 'set_event_aside: the dead letter that an event replaces.';

CREATE INDEX delivery_attempts_delivery ON ONLY bridge.delivery_attempts USING btree (delivery_id, attempt_number);

COMMENT ON INDEX bridge.delivery_attempts_delivery IS 'list_attempts: the attempts of one delivery, in order.';

CREATE INDEX delivery_attempts_time ON ONLY bridge.delivery_attempts USING brin (finished_at) WITH (pages_per_range='32');

COMMENT ON INDEX bridge.delivery_attempts_time IS 'webhook_health: attempts of the last hour.';

CREATE INDEX delivery_log_time ON ONLY bridge.delivery_log USING brin (finished_at) WITH (pages_per_range='32');

COMMENT ON INDEX bridge.delivery_log_time IS 'webhook_health: deliveries finished in the last hour.';

CREATE INDEX delivery_log_failed_finished_at_idx ON ONLY bridge.delivery_log_failed USING brin (finished_at) WITH (pages_per_range='32');

COMMENT ON INDEX bridge.delivery_log_pkey IS 'webhook_deliveries: one delivery by id.';

CREATE INDEX delivery_log_webhook ON ONLY bridge.delivery_log USING btree (webhook_id, id);

COMMENT ON INDEX bridge.delivery_log_webhook IS 'list_deliveries: a webhook''s deliveries, newest first.';

CREATE INDEX delivery_log_failed_webhook_id_id_idx ON ONLY bridge.delivery_log_failed USING btree (webhook_id, id);

CREATE INDEX delivery_log_success_finished_at_idx ON ONLY bridge.delivery_log_success USING brin (finished_at) WITH (pages_per_range='32');

CREATE INDEX delivery_log_success_webhook_id_id_idx ON ONLY bridge.delivery_log_success USING btree (webhook_id, id);

CREATE INDEX delivery_queue_due ON bridge.delivery_queue USING btree (webhook_id, is_redelivery, next_attempt_at, id);

COMMENT ON INDEX bridge.delivery_queue_due IS 'claim: a webhook''s due deliveries, oldest first, new ones before redeliveries.';

CREATE INDEX delivery_queue_order ON bridge.delivery_queue USING btree (webhook_id, id);

COMMENT ON INDEX bridge.delivery_queue_order IS 'claim: the first delivery of an ordered webhook. list_deliveries: a webhook''s deliveries, newest first.';

COMMENT ON INDEX bridge.events_pkey IS 'events_since: everything after an id. Deliveries find their payload by id and recorded_at, in one partition.';

CREATE INDEX outbox_id ON bridge.outbox USING btree (id);

COMMENT ON INDEX bridge.outbox_id IS 'drain: the next ids above the watermark, and single ids below it. Not unique: an application''s statement must not fail because the sequence was set back.';

COMMENT ON INDEX bridge.transaction_notes_pkey IS 'noted(): one note of the current transaction.';

CREATE INDEX webhooks_active_event_type ON bridge.webhooks USING btree (event_type) WHERE is_active;

COMMENT ON INDEX bridge.webhooks_active_event_type IS 'drain: webhooks that receive an event type.';

CREATE INDEX ws_tickets_expiry ON bridge.ws_tickets USING btree (expires_at);

COMMENT ON INDEX bridge.ws_tickets_expiry IS 'create_ticket: expired tickets.';

COMMENT ON INDEX bridge.ws_tickets_pkey IS 'use_ticket: the ticket of a client.';

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

CREATE TRIGGER check_filter AFTER UPDATE OF is_active, filter ON bridge.webhooks FOR EACH ROW WHEN ((new.is_active AND (new.filter IS NOT NULL) AND ((NOT old.is_active) OR ((old.filter)::text IS DISTINCT FROM (new.filter)::text)))) EXECUTE FUNCTION bridge.check_filter();

ALTER TABLE bridge.webhooks ENABLE ALWAYS TRIGGER check_filter;

CREATE TRIGGER check_new_filter AFTER INSERT ON bridge.webhooks FOR EACH ROW WHEN ((new.is_active AND (new.filter IS NOT NULL))) EXECUTE FUNCTION bridge.check_filter();

ALTER TABLE bridge.webhooks ENABLE ALWAYS TRIGGER check_new_filter;

CREATE TRIGGER forgive_webhook BEFORE UPDATE OF is_active ON bridge.webhooks FOR EACH ROW WHEN ((new.is_active AND (NOT old.is_active))) EXECUTE FUNCTION bridge.forgive_webhook();

CREATE TRIGGER note_deleted_webhook AFTER DELETE ON bridge.webhooks FOR EACH ROW WHEN (((old.delivered_count > 0) OR (old.failed_count > 0))) EXECUTE FUNCTION bridge.note_deleted_webhook();

ALTER TABLE ONLY bridge.delivery_queue
    ADD CONSTRAINT delivery_queue_webhook_fkey FOREIGN KEY (webhook_id) REFERENCES bridge.webhooks(id) ON DELETE CASCADE;

ALTER TABLE ONLY bridge.redeliveries
    ADD CONSTRAINT redeliveries_webhook_fkey FOREIGN KEY (webhook_id) REFERENCES bridge.webhooks(id) ON DELETE CASCADE;

REVOKE ALL ON FUNCTION bridge.advance_sequences(p_event_id bigint, p_outbox_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.are_scopes(p_scopes text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.audit(p_action text, p_target_id bigint, p_target text, p_changes jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.audit_change() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.audit_truncate() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.cancel_redelivery(p_webhook_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.check_filter() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.continue_redelivery() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.create_partitions(p_first_day date, p_days integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.dead_letters_page(p_dead_letter_id bigint, p_before_id bigint, p_limit bigint, p_bytes bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.drop_dead_letter(p_dead_letter_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.drop_expired_partition(p_parent text, p_keep_days integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.emit(p_event_type text, p_payload jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.failed_capture(p_table oid, p_row jsonb, p_error text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.filter_problem(p_filter text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.forget_audit(p_keep_days integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.forgive_webhook() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.give_event_ids(p_last_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.give_up_next(p_webhook_id bigint, p_reason text, OUT delivery_id bigint, OUT event_id bigint, OUT attempt_number integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.is_event_type(p_text text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.is_of_values(p_sqlstate text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.is_ours(p_xid xid) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.is_scope(p_scope text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.lead() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.leader_pid() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.log_apart(p_delivery bridge.delivery_log, p_reason text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.log_bounds(OUT missing_through bigint, OUT newest_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.newest_deliveries(p_webhook_id bigint, p_status text, p_from_id bigint, p_before_id bigint, p_limit bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.note(p_topic text, p_key text, p_value jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.note_deleted_webhook() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.note_of_serializable(p_topic text, p_key text, p_take boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.noted(p_topic text, p_key text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.passes(p_filter jsonpath, p_payload jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.passing(p_webhook_ids bigint[], p_filters jsonpath[], p_payload jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.patterns_matching(p_event_type text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.pause_webhook(p_webhook_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.payload_text(p_event_id bigint, p_recorded_at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.queue_deferred(p_deliveries integer, p_milliseconds integer, OUT deliveries bigint, OUT is_empty boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.queue_deliveries(p_event bridge.deferred_events, p_webhook_ids bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.redeliver(p_delivery_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.redeliver_failed(p_webhook_id bigint, p_since timestamp with time zone, p_until timestamp with time zone, p_dry_run boolean, p_per_second double precision) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.redeliver_finished(p_webhook_id bigint, p_since timestamp with time zone, p_until timestamp with time zone, p_dry_run boolean, p_per_second double precision, p_status text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.requeue(p_webhook_id bigint, p_delivery_ids bigint[], p_per_second double precision, p_due_at timestamp with time zone, p_since timestamp with time zone, p_until timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.requeue_batch(p_webhook_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.resume_webhook(p_webhook_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.retry_dead_letter(p_dead_letter_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.ring() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.sequences_behind(p_event_id bigint, p_outbox_id bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.set_event_aside(p_outbox_id bigint, p_reason text, OUT dead_letter_id bigint, OUT event_type text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.settle_apart(p_delivery_id bigint, p_lease_token uuid, p_attempt_number integer, p_started_at timestamp with time zone, p_finished_at timestamp with time zone, p_outcome text, p_retry_seconds double precision, p_response_status integer, p_response_body text, p_failure text, p_error_message text, p_reason text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.shift_times() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.storable_text(p_utf8 bytea) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.take_note(p_topic text, p_key text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.takeover_obstacle(p_follower oid, p_leader oid) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.to_filter(p_filter text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.utf8_text(p_text text) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.wake_couriers() FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.watch_clock(p_elapsed_seconds double precision, OUT step_seconds double precision, OUT may_delete boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION bridge.without_controls(p_text text) FROM PUBLIC;
