-- Schema bridge after every migration, as pg_dump writes it. Written by make schema.

CREATE SCHEMA bridge;

COMMENT ON SCHEMA bridge IS 'pgbridge: captured events, their log, and the deliveries made of them.';

CREATE FUNCTION bridge.create_partitions(p_first_day date, p_days integer) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_log       record;
    v_day       date;
    v_partition text;
    v_created   integer := 0;
begin
    -- Bridges that start together take turns.
    perform pg_advisory_xact_lock(hashtext('bridge.partitions'));
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
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '500ms'
    AS $$
declare
    v_expired record;
begin
    perform pg_advisory_xact_lock(hashtext('bridge.partitions'));
    for v_expired in
        select c.relname,
               to_date(right(c.relname, 8), 'YYYYMMDD')::timestamp at time zone 'UTC' as starts_at
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent = to_regclass(format('bridge.%I', p_parent))
          and to_date(right(c.relname, 8), 'YYYYMMDD') < (now() at time zone 'UTC')::date - p_keep_days
        order by c.relname
    loop
        -- What is still to be delivered keeps its payload.
        continue when p_parent = 'events' and exists (
            select from bridge.delivery_queue q
            where q.event_recorded_at >= v_expired.starts_at
              and q.event_recorded_at < v_expired.starts_at + interval '24 hours');
        execute format('drop table bridge.%I', v_expired.relname);
        return v_expired.relname;
    end loop;
    return null;
end
$$;

COMMENT ON FUNCTION bridge.drop_expired_partition(p_parent text, p_keep_days integer) IS 'Drops the oldest partition of a log whose whole day is older than the days to keep. Returns its name; null if there is none.';

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

CREATE FUNCTION bridge.is_ours(p_xid xid) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    -- age() counts from the current transaction; its savepoints are younger, and so are others'.
    select age(p_xid) <= 0
       and pg_xact_status((pg_current_xact_id()::text::bigint - age(p_xid))::text::xid8) = 'in progress'
$$;

COMMENT ON FUNCTION bridge.is_ours(p_xid xid) IS 'Whether a version of a row that can be seen was written by the current transaction or a savepoint of it: its xmin, or xmax, is then still in progress.';

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

CREATE FUNCTION bridge.noted(p_topic text, p_key text) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select value
    from bridge.transaction_notes
    where xact = pg_current_xact_id_if_assigned() and topic = p_topic and key = p_key
$$;

COMMENT ON FUNCTION bridge.noted(p_topic text, p_key text) IS 'The note that the current transaction left, or null.';

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
    CONSTRAINT api_tokens_scopes_known CHECK (((scopes <@ ARRAY['events:read'::text, 'webhooks:read'::text, 'webhooks:write'::text, 'admin'::text]) AND (scopes <> '{}'::text[])))
);

COMMENT ON TABLE bridge.api_tokens IS 'Tokens for REST and WebSocket. The token itself is shown once and not kept.';

COMMENT ON COLUMN bridge.api_tokens.token_hash IS 'SHA-256 of the token, which is 256 random bits: there is nothing to guess.';

COMMENT ON COLUMN bridge.api_tokens.prefix IS 'How the token begins, for people to recognise it by.';

COMMENT ON COLUMN bridge.api_tokens.scopes IS 'What it may do; admin includes all.';

COMMENT ON COLUMN bridge.api_tokens.last_used_at IS 'Written at most once a minute.';

ALTER TABLE bridge.api_tokens ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME bridge.api_tokens_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

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

CREATE TABLE bridge.delivery_attempts (
    delivery_id bigint NOT NULL,
    webhook_id bigint NOT NULL,
    attempt_number integer NOT NULL,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone NOT NULL,
    response_status integer,
    response_body text,
    error_message text
)
PARTITION BY RANGE (finished_at);

COMMENT ON TABLE bridge.delivery_attempts IS 'Every HTTP attempt, one row each.';

COMMENT ON COLUMN bridge.delivery_attempts.response_body IS 'First 16 KiB of the answer.';

COMMENT ON COLUMN bridge.delivery_attempts.error_message IS 'Why the attempt failed; null if it did not.';

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
    CONSTRAINT delivery_log_status_known CHECK ((status = ANY (ARRAY['success'::text, 'failed'::text])))
)
PARTITION BY LIST (status);

COMMENT ON TABLE bridge.delivery_log IS 'Finished deliveries, one insert each. Partitioned by outcome and then by day, so that successes and failures are kept for different times.';

COMMENT ON COLUMN bridge.delivery_log.id IS 'The id that the delivery had in delivery_queue.';

COMMENT ON COLUMN bridge.delivery_log.status IS 'success: answered with 2xx. failed: given up.';

COMMENT ON COLUMN bridge.delivery_log.attempt_number IS 'Attempts made in all.';

COMMENT ON COLUMN bridge.delivery_log.response_body IS 'First 16 KiB of the last answer.';

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

COMMENT ON TABLE bridge.drainer IS 'The bridge that drains, or drained last: one row. Whether it still does, its advisory lock tells.';

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
    recorded_at timestamp with time zone DEFAULT now() NOT NULL
)
PARTITION BY RANGE (recorded_at);

COMMENT ON TABLE bridge.events IS 'The log of events, in commit order by id. Never updated; retired by dropping whole days.';

COMMENT ON COLUMN bridge.events.occurred_at IS 'When the application''s statement fired the trigger.';

COMMENT ON COLUMN bridge.events.recorded_at IS 'When the drain moved the event from the outbox to this log.';

CREATE SEQUENCE bridge.event_id
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE bridge.event_id OWNED BY bridge.events.id;

COMMENT ON SEQUENCE bridge.event_id IS 'Ids of the log, given by the one drainer: their order is the order in which commits became visible.';

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
        END AS next_retry_at
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
    NULL::timestamp with time zone AS next_retry_at
   FROM (bridge.delivery_log l
     LEFT JOIN bridge.events e ON (((e.id = l.event_id) AND (e.recorded_at = l.event_recorded_at))));

COMMENT ON VIEW bridge.webhook_deliveries IS 'Every delivery, pending or finished. status: pending (queued, in flight or waiting for a retry), success, failed.';

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
    CONSTRAINT webhooks_max_concurrency_range CHECK (((max_concurrency >= 1) AND (max_concurrency <= 1000))),
    CONSTRAINT webhooks_secret_not_empty CHECK ((secret <> ''::text)),
    CONSTRAINT webhooks_timeout_seconds_range CHECK (((timeout_seconds >= 1) AND (timeout_seconds <= 120)))
)
WITH (fillfactor='50');

COMMENT ON TABLE bridge.webhooks IS 'Where events go: one row is one receiver of one event type or pattern.';

COMMENT ON COLUMN bridge.webhooks.event_type IS 'An exact type (ticket.created) or a pattern (ticket.*, *).';

COMMENT ON COLUMN bridge.webhooks.secret IS 'Key of the signatures; without one, requests are not signed.';

COMMENT ON COLUMN bridge.webhooks.is_active IS 'Only active webhooks get new deliveries; the queue of a paused one is kept.';

COMMENT ON COLUMN bridge.webhooks.disabled_reason IS 'Why the bridge itself set is_active to false; null if it did not.';

COMMENT ON COLUMN bridge.webhooks.timeout_seconds IS 'Deadline of one whole attempt, from connecting to the end of the answer.';

COMMENT ON COLUMN bridge.webhooks.max_concurrency IS 'Most attempts that one bridge has in flight to this webhook.';

COMMENT ON COLUMN bridge.webhooks.last_triggered_at IS 'When the last attempt ended.';

COMMENT ON COLUMN bridge.webhooks.success_count IS 'Attempts that were answered with 2xx, ever.';

COMMENT ON COLUMN bridge.webhooks.failure_count IS 'Attempts that were not, ever.';

ALTER TABLE bridge.webhooks ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME bridge.webhooks_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY bridge.delivery_log ATTACH PARTITION bridge.delivery_log_failed FOR VALUES IN ('failed');

ALTER TABLE ONLY bridge.delivery_log ATTACH PARTITION bridge.delivery_log_success FOR VALUES IN ('success');

ALTER TABLE ONLY bridge.events ALTER COLUMN id SET DEFAULT nextval('bridge.event_id'::regclass);

ALTER TABLE ONLY bridge.api_tokens
    ADD CONSTRAINT api_tokens_pkey PRIMARY KEY (id);

ALTER TABLE ONLY bridge.api_tokens
    ADD CONSTRAINT api_tokens_token_hash_key UNIQUE (token_hash);

ALTER TABLE ONLY bridge.capture_rules
    ADD CONSTRAINT capture_rules_pkey PRIMARY KEY (name);

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

COMMENT ON INDEX bridge.api_tokens_token_hash_key IS 'authenticate: the token that a request brings.';

CREATE INDEX delivery_attempts_delivery ON ONLY bridge.delivery_attempts USING btree (delivery_id, attempt_number);

COMMENT ON INDEX bridge.delivery_attempts_delivery IS 'The attempts of one delivery, in order.';

COMMENT ON INDEX bridge.delivery_log_pkey IS 'webhook_deliveries: one delivery by id.';

CREATE INDEX delivery_log_webhook ON ONLY bridge.delivery_log USING btree (webhook_id, id);

COMMENT ON INDEX bridge.delivery_log_webhook IS 'list_deliveries: a webhook''s deliveries, newest first.';

CREATE INDEX delivery_log_failed_webhook_id_id_idx ON ONLY bridge.delivery_log_failed USING btree (webhook_id, id);

CREATE INDEX delivery_log_success_webhook_id_id_idx ON ONLY bridge.delivery_log_success USING btree (webhook_id, id);

CREATE INDEX delivery_queue_due ON bridge.delivery_queue USING btree (webhook_id, next_attempt_at, id);

COMMENT ON INDEX bridge.delivery_queue_due IS 'claim: a webhook''s deliveries that are due, oldest first.';

COMMENT ON INDEX bridge.events_pkey IS 'events_since: everything after an id. Deliveries find their payload by id and recorded_at, in one partition.';

COMMENT ON INDEX bridge.outbox_pkey IS 'drain: the next ids above the mark, and single ids below it.';

COMMENT ON INDEX bridge.transaction_notes_pkey IS 'noted(): one note of the current transaction.';

CREATE INDEX webhooks_active_event_type ON bridge.webhooks USING btree (event_type) WHERE is_active;

COMMENT ON INDEX bridge.webhooks_active_event_type IS 'drain: who takes an event of this type.';

ALTER INDEX bridge.delivery_log_pkey ATTACH PARTITION bridge.delivery_log_failed_pkey;

ALTER INDEX bridge.delivery_log_webhook ATTACH PARTITION bridge.delivery_log_failed_webhook_id_id_idx;

ALTER INDEX bridge.delivery_log_pkey ATTACH PARTITION bridge.delivery_log_success_pkey;

ALTER INDEX bridge.delivery_log_webhook ATTACH PARTITION bridge.delivery_log_success_webhook_id_id_idx;

ALTER TABLE ONLY bridge.delivery_queue
    ADD CONSTRAINT delivery_queue_webhook_fkey FOREIGN KEY (webhook_id) REFERENCES bridge.webhooks(id) ON DELETE CASCADE;
