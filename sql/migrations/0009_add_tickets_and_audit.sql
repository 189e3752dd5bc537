-- Tokens for some types of events, tickets to open a WebSocket with, and who changed what.

alter table bridge.api_tokens
    drop constraint api_tokens_scopes_known,
    add constraint api_tokens_scopes_known check (
        cardinality(scopes) between 1 and 100
        and array_position(scopes, null) is null
        -- None of them has a space in it, and so all are what they look like when they are joined.
        and length(regexp_replace(array_to_string(scopes, ' '), '[^ ]', '', 'g')) = cardinality(scopes) - 1
        and array_to_string(scopes, ' ') ~ (
            '^((events:read|webhooks:read|webhooks:write|admin'
            '|events:read:(\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?))( (?=.)|$))+$'));
comment on column bridge.api_tokens.scopes is
    'What it may do: events:read, events:read:ticket.* for events of some types, webhooks:read, webhooks:write, which includes webhooks:read, and admin, which includes all.';

create unlogged table bridge.ws_tickets (
    ticket_hash  bytea       not null,
    token_source text        not null,
    token_id     bigint,
    expires_at   timestamptz not null,
    constraint ws_tickets_pkey primary key (ticket_hash),
    constraint ws_tickets_token_source_known check (token_source in ('bridge', 'bot', 'setting'))
);
comment on table bridge.ws_tickets is
    'Tickets that open one WebSocket each, within seconds, so that no URL has a token in it. Unlogged: after a crash, clients ask for another.';
comment on column bridge.ws_tickets.ticket_hash is 'SHA-256 of the ticket, which is 256 random bits.';
comment on column bridge.ws_tickets.token_source is
    'Where the token is that the ticket was got with: bridge: api_tokens; bot: public.web_api_tokens; setting: BRIDGE_TOKEN.';
comment on column bridge.ws_tickets.token_id is 'Its id there: what it allows is looked up when the ticket is used. Null: setting.';
comment on index bridge.ws_tickets_pkey is 'use_ticket: the ticket that a client brings.';
create index ws_tickets_expiry on bridge.ws_tickets (expires_at);
comment on index bridge.ws_tickets_expiry is 'create_ticket: those that nobody has used in time.';

create table bridge.audit_log (
    id         bigint generated always as identity,
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
    'Who changed what, and when: webhooks, tokens, rules of capture, redeliveries. Written by triggers in the transaction of the change, whichever way it came.';
comment on column bridge.audit_log.action is 'What was done to what kind of thing: webhook.updated, token.created, delivery.redelivered.';
comment on column bridge.audit_log.target is 'The name of the thing, as it was then.';
comment on column bridge.audit_log.via is
    'By which way: api; console; cli: a pgbridge command; sql: a session of somebody''s own; bridge: pgbridge run by itself, such as switching off what fails for days.';
comment on column bridge.audit_log.actor is
    'The token (its source, id and name) or, on a command line, user and machine: as the way says, which nobody checks. Who was logged in to the database is db_role.';
comment on column bridge.audit_log.address is 'Where the request came from.';
comment on column bridge.audit_log.changes is
    'For each column that changed: {"from": …, "to": …}. Of secrets only whether there is one.';
comment on index bridge.audit_log_pkey is 'list_audit: the newest first.';
create index audit_log_changed_at on bridge.audit_log using brin (changed_at);
comment on index bridge.audit_log_changed_at is 'forget_audit: what is too old.';

create function bridge.audit(
    p_action text, p_target_id bigint, p_target text, p_changes jsonb
) returns void
language plpgsql
-- Whoever may change things may not change what is written about it.
security definer
set search_path = pg_catalog, pg_temp
as $$
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
comment on function bridge.audit(text, bigint, text, jsonb) is
    'Writes down a change, and who makes it: bridge.actor, a setting of the transaction or session: {"via": "api", "actor": …, "address": …}.';

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
    'Trigger: writes a change of a row into audit_log. Arguments: what the row is, the columns that matter, and those that are secret.';

create trigger audit_new_or_deleted
    after insert or delete on bridge.webhooks
    for each row execute function bridge.audit_change(
        'webhook',
        'name url event_type description is_active timeout_seconds max_concurrency filter rate_per_second ordered retry_schedule',
        'secret');
create trigger audit_update
    after update on bridge.webhooks
    -- Counters change with every batch of deliveries; that is nobody's doing.
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
    'Deletes what is older than so many days from audit_log, but nothing of the last 30. Returns how many.';

create or replace function bridge.redeliver(p_delivery_id bigint) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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

create or replace function bridge.redeliver_failed(
    p_webhook_id bigint,
    p_since      timestamptz,
    p_until      timestamptz default null,
    p_dry_run    boolean default false,
    p_per_second double precision default 20
) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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

revoke execute on all functions in schema bridge from public;
