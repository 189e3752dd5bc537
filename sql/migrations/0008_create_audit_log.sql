-- The audit log: who changed webhooks, tokens and capture rules, and who redelivered.

create table bridge.audit_log (
    id         bigint      generated always as identity,
    changed_at timestamptz not null default clock_timestamp(),
    action     text        not null,
    target_id  bigint,
    target     text,
    via        text        not null,
    actor      text        not null,
    address    text,
    db_role    text        not null default session_user,
    changes    jsonb       not null,
    constraint audit_log_pkey primary key (id),
    constraint audit_log_via_known check (via in ('api', 'console', 'cli', 'sql', 'bridge'))
);
comment on table bridge.audit_log is
    'Changes to webhooks, tokens and capture rules, and redeliveries. Triggers write it in the transaction of the change, whatever made the change.';
comment on column bridge.audit_log.action is
    'Kind of object and verb: webhook.updated, token.created, delivery.redelivered.';
comment on column bridge.audit_log.target is 'The object''s name at that time.';
comment on column bridge.audit_log.via is
    'api; console; cli: a pgbridge command; sql: any other database session; bridge: pgbridge itself, for example when it disables a webhook that has failed for days.';
comment on column bridge.audit_log.actor is
    'The token (source, id and name) or, for a command, user and host. Reported by the client and not verified; db_role is the role that logged in to the database.';
comment on column bridge.audit_log.address is 'Client address of the request.';
comment on column bridge.audit_log.changes is
    'For each changed column: {"from": …, "to": …}. Of secrets, only whether there is one.';
comment on index bridge.audit_log_pkey is 'list_audit: newest first.';
create index audit_log_changed_at on bridge.audit_log using brin (changed_at);
comment on index bridge.audit_log_changed_at is 'forget_audit: expired entries.';

-- --- functions

create function bridge.audit(
    p_action text, p_target_id bigint, p_target text, p_changes jsonb
) returns void
language plpgsql
-- Roles that may change things may not change the record of it.
security definer
set search_path = pg_catalog, pg_temp
as $$
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
    values (p_action, p_target_id, p_target, v_who ->> 'via', coalesce(v_who ->> 'actor', ''),
            v_who ->> 'address', p_changes);
end
$$;
comment on function bridge.audit(text, bigint, text, jsonb) is
    'Records a change and its author. The author comes from bridge.actor, a setting of the transaction or session: {"via": "api", "actor": …, "address": …}.';

create function bridge.forget_audit(p_keep_days integer) returns bigint
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
    with forgotten as (
        delete from bridge.audit_log
        where changed_at < now() - make_interval(days => greatest(p_keep_days, 30))
        returning id
    )
    select count(*) from forgotten
$$;
comment on function bridge.forget_audit(integer) is
    'Deletes audit entries older than a number of days, but never those of the last 30 days. Returns how many.';

create function bridge.audit_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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
comment on function bridge.audit_change() is
    'Trigger: records a change of a row in audit_log. Arguments: the kind of object, the audited columns, and those among them that are secret.';

create function bridge.audit_truncate() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count bigint;
begin
    execute format('select count(*) from %s', tg_relid::regclass) into v_count;
    perform bridge.audit(
        format('%s.truncated', tg_argv[0]), null, null, jsonb_build_object('count', v_count));
    return null;
end
$$;
comment on function bridge.audit_truncate() is
    'Trigger: records in audit_log that a table was truncated, and how many rows it had. Argument: the kind of object.';

-- --- triggers

create trigger audit_new_or_deleted
    after insert or delete on bridge.webhooks
    for each row execute function bridge.audit_change(
        'webhook',
        'name url event_type description is_active timeout_seconds max_concurrency filter rate_per_second ordered retry_schedule',
        'secret');
create trigger audit_update
    after update on bridge.webhooks
    -- Not for the counters, which change with every batch of deliveries.
    for each row when (
        (old.name, old.url, old.event_type, old.secret, old.previous_secret, old.description, old.is_active,
         old.disabled_reason, old.timeout_seconds, old.max_concurrency, old.filter::text, old.rate_per_second,
         old.ordered, old.retry_schedule, old.paused_at)
        is distinct from
        (new.name, new.url, new.event_type, new.secret, new.previous_secret, new.description, new.is_active,
         new.disabled_reason, new.timeout_seconds, new.max_concurrency, new.filter::text, new.rate_per_second,
         new.ordered, new.retry_schedule, new.paused_at))
    execute function bridge.audit_change(
        'webhook',
        'name url event_type description is_active disabled_reason timeout_seconds max_concurrency filter rate_per_second ordered retry_schedule paused_at',
        'secret previous_secret');

create trigger audit_change
    after insert or delete or update of name, scopes, expires_at, revoked_at, token_hash on bridge.api_tokens
    for each row execute function bridge.audit_change(
        'token', 'name prefix scopes expires_at revoked_at', 'token_hash');

create trigger audit_change
    after insert or delete or update of table_name, trigger_sql, function_sql, paused_at on bridge.capture_rules
    for each row execute function bridge.audit_change(
        'rule', 'table_name trigger_sql function_sql paused_at', '');

create trigger audit_truncate before truncate on bridge.webhooks
    for each statement execute function bridge.audit_truncate('webhook');
create trigger audit_truncate before truncate on bridge.api_tokens
    for each statement execute function bridge.audit_truncate('token');
create trigger audit_truncate before truncate on bridge.capture_rules
    for each statement execute function bridge.audit_truncate('rule');
