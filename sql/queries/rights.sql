-- The privileges of the two roles. This is the only list of them: init grants what is missing, run and
-- doctor compare it with their own role, and docs/roles.md shows it.
--   bridge_service  what pgbridge run and the commands token, webhooks, status and doctor need
--   bridge_reader   read everything except secrets, change nothing
-- One row per object:
--   missing    privileges that the role does not have: all of them if the role or the object does not
--              exist yet
--   lacking    privileges that the role of this session does not have; empty if the object does not exist
--   grant_sql  the statement that grants them
--   role_exists, session_role, remedy: how the session's role gets what the service needs
with wanted (role, kind, object, privileges, columns) as (values
    ('bridge_service', 'schema', '', 'usage', null),

    -- Triggers insert into the outbox, the drain deletes. (settle inserts the bridge's own events.)
    ('bridge_service', 'table', 'outbox', 'select, insert, delete', null),
    ('bridge_service', 'sequence', 'outbox_id_seq', 'select', null),
    ('bridge_service', 'table', 'transaction_notes', 'select, delete', null),
    ('bridge_service', 'sequence', 'doorbell', 'select, update', null),
    ('bridge_service', 'table', 'drainer', 'select, insert, update', null),
    ('bridge_service', 'table', 'leader', 'select', null),
    ('bridge_service', 'function', 'lead()', 'execute', null),
    ('bridge_service', 'function', 'leader_pid()', 'execute', null),
    ('bridge_service', 'function', 'takeover_obstacle(oid, oid)', 'execute', null),
    ('bridge_service', 'function', 'ring()', 'execute', null),
    ('bridge_service', 'function', 'sequences_behind(bigint, bigint)', 'execute', null),
    ('bridge_service', 'function', 'advance_sequences(bigint, bigint)', 'execute', null),
    ('bridge_service', 'table', 'dead_letters', 'select, insert, delete', null),
    ('bridge_service', 'function', 'dead_letters_page(bigint, bigint, bigint, bigint)', 'execute', null),
    ('bridge_service', 'function', 'retry_dead_letter(bigint)', 'execute', null),
    ('bridge_service', 'function', 'drop_dead_letter(bigint)', 'execute', null),
    ('bridge_service', 'function', 'set_event_aside(bigint, text)', 'execute', null),
    ('bridge_service', 'function', 'utf8_text(text)', 'execute', null),
    ('bridge_service', 'function', 'storable_text(bytea)', 'execute', null),
    ('bridge_service', 'table', 'capture_rules', 'select', null),
    -- Not the rule's SQL: the owner runs it when the rule is resumed.
    ('bridge_service', 'table', 'capture_rules', 'update', 'failure_count, last_failed_at, last_error'),

    -- Log rows are never updated. Redelivery deletes finished deliveries from the log.
    ('bridge_service', 'table', 'events', 'select, insert', null),
    ('bridge_service', 'sequence', 'event_id', 'select', null),
    ('bridge_service', 'function', 'give_event_ids(bigint)', 'execute', null),
    ('bridge_service', 'table', 'delivery_attempts', 'select, insert', null),
    ('bridge_service', 'table', 'delivery_log', 'select, insert, delete', null),
    ('bridge_service', 'table', 'delivery_log_success', 'select', null),
    ('bridge_service', 'table', 'delivery_log_failed', 'select', null),
    ('bridge_service', 'table', 'log_start', 'select', null),
    ('bridge_service', 'function', 'log_bounds()', 'execute', null),
    ('bridge_service', 'table', 'partitioned_logs', 'select', null),
    ('bridge_service', 'function', 'create_partitions(date, integer)', 'execute', null),
    ('bridge_service', 'function', 'drop_expired_partition(text, integer)', 'execute', null),

    ('bridge_service', 'table', 'clock', 'select, update', null),
    ('bridge_service', 'function', 'watch_clock(double precision)', 'execute', null),
    ('bridge_service', 'function', 'shift_times()', 'execute', null),

    ('bridge_service', 'table', 'webhooks', 'select, insert, update, delete', null),
    ('bridge_service', 'table', 'deleted_webhooks', 'select, insert', null),
    ('bridge_service', 'table', 'deleted_webhooks', 'update', 'delivered_count'),
    ('bridge_service', 'table', 'uncounted_successes', 'select, insert, delete', null),
    ('bridge_service', 'table', 'delivery_queue', 'select, insert, update, delete', null),
    ('bridge_service', 'table', 'couriers', 'select, insert, delete', null),
    ('bridge_service', 'table', 'deferred_events', 'select, insert, update, delete', null),
    ('bridge_service', 'function', 'queue_deferred(integer, integer)', 'execute', null),
    ('bridge_service', 'function', 'queue_deliveries(bridge.deferred_events, bigint[])', 'execute', null),
    ('bridge_service', 'function', 'is_of_values(text)', 'execute', null),
    ('bridge_service', 'function', 'log_apart(bridge.delivery_log, text)', 'execute', null),
    ('bridge_service', 'function',
     'settle_apart(bigint, uuid, integer, timestamp with time zone, timestamp with time zone, text, double precision, integer, text, text, text, text)', 'execute', null),
    ('bridge_service', 'function', 'give_up_next(bigint, text)', 'execute', null),
    ('bridge_service', 'table', 'redelivery_lock', 'insert', null),
    ('bridge_service', 'table', 'webhook_deliveries', 'select', null),
    ('bridge_service', 'table', 'webhook_health', 'select', null),
    ('bridge_service', 'function', 'newest_deliveries(bigint, text, bigint, bigint, bigint)', 'execute', null),
    ('bridge_service', 'function', 'patterns_matching(text)', 'execute', null),
    ('bridge_service', 'function', 'passes(jsonpath, jsonb)', 'execute', null),
    ('bridge_service', 'function', 'filter_problem(text)', 'execute', null),
    ('bridge_service', 'function', 'to_filter(text)', 'execute', null),
    ('bridge_service', 'function', 'passing(bigint[], jsonpath[], jsonb)', 'execute', null),
    ('bridge_service', 'function', 'payload_text(bigint, timestamp with time zone)', 'execute', null),
    ('bridge_service', 'function', 'wake_couriers()', 'execute', null),
    ('bridge_service', 'function', 'pause_webhook(bigint)', 'execute', null),
    ('bridge_service', 'function', 'resume_webhook(bigint)', 'execute', null),
    ('bridge_service', 'table', 'redeliveries', 'select, insert, update', null),
    ('bridge_service', 'function',
     'requeue(bigint, bigint[], double precision, timestamp with time zone, timestamp with time zone, timestamp with time zone)', 'execute', null),
    ('bridge_service', 'function', 'requeue_batch(bigint)', 'execute', null),
    ('bridge_service', 'function', 'redeliver(bigint)', 'execute', null),
    ('bridge_service', 'function',
     'redeliver_failed(bigint, timestamp with time zone, timestamp with time zone, boolean, double precision)', 'execute', null),
    ('bridge_service', 'function',
     'redeliver_finished(bigint, timestamp with time zone, timestamp with time zone, boolean, double precision, text)', 'execute', null),
    ('bridge_service', 'function', 'continue_redelivery()', 'execute', null),
    ('bridge_service', 'function', 'cancel_redelivery(bigint)', 'execute', null),

    ('bridge_service', 'function', 'is_event_type(text)', 'execute', null),
    ('bridge_service', 'function', 'is_scope(text)', 'execute', null),
    ('bridge_service', 'function', 'are_scopes(text[])', 'execute', null),
    ('bridge_service', 'table', 'api_tokens', 'select, insert', null),
    ('bridge_service', 'table', 'api_tokens', 'update', 'revoked_at, last_used_at'),
    ('bridge_service', 'table', 'ws_tickets', 'select, insert, update, delete', null),
    ('bridge_service', 'table', 'console_sessions', 'select, insert, update, delete', null),
    -- The bridge cannot change the record of what it does.
    ('bridge_service', 'table', 'audit_log', 'select', null),
    ('bridge_service', 'function', 'audit(text, bigint, text, jsonb)', 'execute', null),
    ('bridge_service', 'function', 'forget_audit(integer)', 'execute', null),
    ('bridge_service', 'table', 'activity', 'select, insert, delete', null),
    ('bridge_service', 'table', 'migrations', 'select', null),

    ('bridge_reader', 'schema', '', 'usage', null),
    ('bridge_reader', 'table', 'outbox', 'select', null),
    ('bridge_reader', 'table', 'transaction_notes', 'select', null),
    ('bridge_reader', 'sequence', 'doorbell', 'select', null),
    ('bridge_reader', 'table', 'drainer', 'select', null),
    ('bridge_reader', 'table', 'leader', 'select', null),
    ('bridge_reader', 'function', 'leader_pid()', 'execute', null),
    ('bridge_reader', 'function', 'takeover_obstacle(oid, oid)', 'execute', null),
    ('bridge_reader', 'function', 'sequences_behind(bigint, bigint)', 'execute', null),
    ('bridge_reader', 'table', 'capture_rules', 'select', null),
    ('bridge_reader', 'table', 'events', 'select', null),
    ('bridge_reader', 'sequence', 'event_id', 'select', null),
    ('bridge_reader', 'table', 'delivery_attempts', 'select', null),
    ('bridge_reader', 'table', 'delivery_log', 'select', null),
    ('bridge_reader', 'table', 'delivery_log_success', 'select', null),
    ('bridge_reader', 'table', 'delivery_log_failed', 'select', null),
    ('bridge_reader', 'table', 'log_start', 'select', null),
    ('bridge_reader', 'function', 'log_bounds()', 'execute', null),
    ('bridge_reader', 'table', 'partitioned_logs', 'select', null),
    ('bridge_reader', 'table', 'clock', 'select', null),
    -- Without secret and previous_secret.
    ('bridge_reader', 'table', 'webhooks', 'select',
     'id, name, url, event_type, filter, description, previous_secret_expires_at, is_active, '
     'disabled_reason, paused_at, timeout_seconds, max_concurrency, rate_per_second, ordered, '
     'retry_schedule, failure_share, failing_since, probe_at, paced_until, success_count, '
     'failure_count, delivered_count, failed_count, created_at, updated_at, last_triggered_at, state'),
    ('bridge_reader', 'table', 'deleted_webhooks', 'select', null),
    ('bridge_reader', 'table', 'dead_letters', 'select', null),
    ('bridge_reader', 'table', 'uncounted_successes', 'select', null),
    ('bridge_reader', 'table', 'delivery_queue', 'select', null),
    ('bridge_reader', 'table', 'couriers', 'select', null),
    ('bridge_reader', 'table', 'deferred_events', 'select', null),
    ('bridge_reader', 'table', 'redeliveries', 'select', null),
    ('bridge_reader', 'table', 'webhook_deliveries', 'select', null),
    ('bridge_reader', 'table', 'webhook_health', 'select', null),
    ('bridge_reader', 'table', 'backlog', 'select', null),
    ('bridge_reader', 'function', 'patterns_matching(text)', 'execute', null),
    ('bridge_reader', 'function', 'passes(jsonpath, jsonb)', 'execute', null),
    ('bridge_reader', 'function', 'filter_problem(text)', 'execute', null),
    -- Without token_hash.
    ('bridge_reader', 'table', 'api_tokens', 'select',
     'id, name, prefix, scopes, created_at, expires_at, revoked_at, last_used_at'),
    -- Without session_hash.
    ('bridge_reader', 'table', 'console_sessions', 'select', 'token_source, token_id, created_at, expires_at'),
    ('bridge_reader', 'table', 'audit_log', 'select', null),
    ('bridge_reader', 'table', 'activity', 'select', null),
    ('bridge_reader', 'table', 'migrations', 'select', null)
), named as (
    select row_number() over () as place, w.*,
           trim(trailing '.' from 'bridge.' || w.object) as name,
           to_regrole(w.role)::oid as role_id
    from wanted w
), found as (
    -- Null if the object does not exist. Looked up in the catalog, because to_regclass() fails for
    -- roles that may not use the schema.
    select n.*, s.oid as schema_id, c.oid as relation_id, p.oid as function_id
    from named n
    left join pg_catalog.pg_namespace s on s.nspname = 'bridge'
    left join pg_catalog.pg_class c
        on c.relnamespace = s.oid and n.kind in ('table', 'sequence') and c.relname = n.object
    left join pg_catalog.pg_proc p
        on p.pronamespace = s.oid and n.kind = 'function'
        and p.proname || '(' || oidvectortypes(p.proargtypes) || ')' = n.object
), judged as (
    select f.place, who.is_session, single.privilege,
           case
               when f.kind = 'schema' then has_schema_privilege(who.role_id, f.schema_id, single.privilege)
               when f.kind = 'sequence' then has_sequence_privilege(who.role_id, f.relation_id, single.privilege)
               when f.kind = 'function' then has_function_privilege(who.role_id, f.function_id, single.privilege)
               when f.columns is null then has_table_privilege(who.role_id, f.relation_id, single.privilege)
               else (
                   -- A column that a migration will add is missing for the role, but not lacking.
                   select case
                              when who.is_session then bool_and(of_column.is_held)
                              else bool_and(coalesce(of_column.is_held, false))
                          end
                   from unnest(string_to_array(f.columns, ', ')) as wanted_column(name)
                   left join pg_catalog.pg_attribute a
                       on a.attrelid = f.relation_id and a.attname = wanted_column.name
                       and not a.attisdropped
                   cross join lateral (
                       select has_column_privilege(who.role_id, f.relation_id, a.attnum, single.privilege) as is_held
                   ) as of_column)
           end as is_held
    from found f
    cross join lateral (
        values (f.role_id, false),
               ((select oid from pg_catalog.pg_roles where rolname = current_user), true)
    ) as who(role_id, is_session)
    cross join lateral unnest(string_to_array(f.privileges, ', ')) as single(privilege)
)
select n.role, n.kind, n.name as object, n.privileges, n.columns,
       n.role_id is not null as role_exists,
       array(
           select j.privilege from judged j
           where j.place = n.place and not j.is_session and j.is_held is not true
           order by j.privilege) as missing,
       array(
           select j.privilege from judged j
           where j.place = n.place and j.is_session and j.is_held is false
           order by j.privilege) as lacking,
       format('grant %s on %s %s to %I;',
              case when n.columns is null then n.privileges
                   else n.privileges || ' (' || n.columns || ')' end,
              n.kind, n.name, n.role) as grant_sql,
       current_user::text as session_role,
       case
           when to_regrole('bridge_service') is null then
               'use the role that ran pgbridge init, or have it run: pgbridge init --create-roles'
           when pg_has_role(current_user, to_regrole('bridge_service')::oid, 'usage') then
               'run: pgbridge init'
           when not pg_has_role(current_user, to_regrole('bridge_service')::oid, 'member') then
               format('grant bridge_service to %I', current_user)
           -- A member that does not inherit the role and would have to SET ROLE.
           when current_setting('server_version_num')::integer >= 160000 then
               format('grant bridge_service to %I with inherit true', current_user)
           else format('alter role %I inherit', current_user)
       end as remedy
from named n
order by n.place;
