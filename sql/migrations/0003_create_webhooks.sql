-- Webhooks: where events go, and how each receiver is doing.

-- --- tables

create table bridge.webhooks (
    id                         bigint           generated always as identity,
    name                       text             not null,
    url                        text             not null,
    event_type                 text             not null,
    filter                     jsonpath,
    description                text,
    secret                     text,
    previous_secret            text,
    previous_secret_expires_at timestamptz,

    -- Whether it delivers.
    is_active                  boolean          not null default true,
    disabled_reason            text,
    paused_at                  timestamptz,

    -- How it delivers.
    timeout_seconds            integer          not null default 15,
    max_concurrency            integer          not null default 4,
    rate_per_second            double precision,
    ordered                    boolean          not null default false,
    retry_schedule             double precision[],

    -- How its attempts went. The couriers keep these up to date.
    failure_share              real             not null default 0,
    failing_since              timestamptz,
    probe_at                   timestamptz,
    paced_until                timestamptz,
    success_count              bigint           not null default 0,
    failure_count              bigint           not null default 0,
    delivered_count            bigint           not null default 0,
    failed_count               bigint           not null default 0,

    created_at                 timestamptz      not null default now(),
    updated_at                 timestamptz      not null default now(),
    last_triggered_at          timestamptz,

    -- The one definition of a webhook's state.
    state                      text             not null generated always as (
        case
            when not is_active and disabled_reason is not null then 'disabled'
            when not is_active then 'off'
            when paused_at is not null then 'paused'
            when probe_at is not null then 'failing'
            else 'delivering'
        end) stored,

    constraint webhooks_pkey primary key (id),
    constraint webhooks_secret_not_empty check (secret <> ''),
    constraint webhooks_previous_secret_whole check (
        (previous_secret is null) = (previous_secret_expires_at is null) and previous_secret <> ''),
    constraint webhooks_timeout_seconds_range check (timeout_seconds between 1 and 120),
    constraint webhooks_max_concurrency_range check (max_concurrency between 1 and 1000),
    constraint webhooks_rate_per_second_range check (rate_per_second between 0.001 and 100000),
    constraint webhooks_retry_schedule_range check (
        cardinality(retry_schedule) between 1 and 100
        and array_ndims(retry_schedule) = 1 and array_position(retry_schedule, null) is null
        and 0 <= all (retry_schedule) and 2592000 >= all (retry_schedule)),
    constraint webhooks_failure_share_range check (failure_share between 0 and 1),

    -- Filters run in the drain, where a slow one would hold up every event. The first two checks
    -- blank out string literals before they look for operators.
    -- A variable, such as $amount for $.amount, never has a value.
    constraint webhooks_filter_without_variables check (
        regexp_replace(filter::text, '"([^"\\]|\\.)*"', '""', 'g') not like '%$""%'),
    -- ** and nested filters can take exponential time.
    constraint webhooks_filter_bounded check (
        regexp_replace(filter::text, '"([^"\\]|\\.)*"', '""', 'g') !~ '\*\*|\?.*\?'),
    -- A back-reference makes a regular expression try every way to match:
    -- ^(a*)(a*)(a*)(a*)\1\2\3\4$ takes minutes on 300 letters. jsonpath writes a backslash twice; an
    -- escaped backslash before a digit is no reference.
    constraint webhooks_filter_without_back_references check (
        filter::text !~ 'like_regex "([^"\\]|\\[^\\]|\\\\([^"\\]|\\.))*\\\\[1-9]')
) with (
    -- Counters change with every batch of deliveries: leave room for updates on the same page.
    fillfactor = 50
);
comment on table bridge.webhooks is 'Where events go: one row is one receiver of one event type or pattern.';
comment on column bridge.webhooks.event_type is 'An exact type (ticket.created) or a pattern (ticket.*, *).';
comment on column bridge.webhooks.filter is
    'jsonpath predicate on the payload, such as $.amount_kopeks >= 100000. Only events for which it is true are delivered; an error counts as false. $ ? (…) is not a predicate and is never true. Restricted to keep it fast: at most one ? (…), no **, and no back-reference (\1) in like_regex.';
comment on column bridge.webhooks.secret is
    'Signing key; null: requests are not signed. Encrypted if it begins with fernet:.';
comment on column bridge.webhooks.previous_secret is
    'The signing key before the last rotation. Requests are signed with both keys until previous_secret_expires_at.';
comment on column bridge.webhooks.is_active is
    'Only active webhooks get new deliveries. Deliveries queued for an inactive webhook are kept, and sent when it is activated.';
comment on column bridge.webhooks.disabled_reason is
    'Why the bridge set is_active to false; null if it did not.';
comment on column bridge.webhooks.paused_at is
    'When the webhook was paused; null if it is not paused. Unlike an inactive webhook, a paused one still gets new deliveries. All of them wait.';
comment on column bridge.webhooks.timeout_seconds is
    'Deadline of a whole attempt, from connecting to the end of the response.';
comment on column bridge.webhooks.max_concurrency is 'Most attempts in flight to this webhook, per bridge.';
comment on column bridge.webhooks.rate_per_second is
    'Most attempts per second, over all bridges; bursts of one second''s worth are allowed. Null: unlimited.';
comment on column bridge.webhooks.ordered is
    'Deliver in event order, one attempt at a time: each delivery waits until the previous one succeeded or was given up.';
comment on column bridge.webhooks.retry_schedule is
    'Seconds to wait before each attempt, including the first. Its length is the number of attempts. Null: BRIDGE_RETRY_SCHEDULE.';
comment on column bridge.webhooks.failure_share is
    'Share of recent attempts that failed, as a moving average over about ten attempts: each new attempt weighs one tenth. The higher it is, the fewer attempts are in flight at once.';
comment on column bridge.webhooks.failing_since is
    'Start of the first failed attempt since the last success; null if the last attempt succeeded or none was made.';
comment on column bridge.webhooks.probe_at is
    'The circuit breaker. Null: closed. Otherwise it is open: deliveries wait, and from this time on one is tried, to find out whether the receiver has recovered.';
comment on column bridge.webhooks.paced_until is
    'With rate_per_second: until when claimed deliveries use up the rate. Null: no claim yet.';
comment on column bridge.webhooks.success_count is 'Attempts answered with 2xx, since creation.';
comment on column bridge.webhooks.failure_count is 'Attempts that failed, since creation.';
comment on column bridge.webhooks.delivered_count is
    'Successful deliveries in the log. Maintained by settle, requeue and drop_expired_partition, so that the log need not be counted.';
comment on column bridge.webhooks.failed_count is 'Deliveries in the log that were given up.';
comment on column bridge.webhooks.last_triggered_at is 'When the last attempt ended.';
comment on column bridge.webhooks.state is
    'delivering; failing: the breaker is open, and one delivery is tried at probe_at; paused: by pause_webhook; disabled: by the bridge, see disabled_reason; off: by an operator.';

create index webhooks_active_event_type on bridge.webhooks (event_type) where is_active;
comment on index bridge.webhooks_active_event_type is 'drain: webhooks that receive an event type.';

create table bridge.deleted_webhooks (
    id              bigint      not null,
    name            text        not null,
    url             text        not null,
    event_type      text        not null,
    deleted_at      timestamptz not null,
    delivered_count bigint      not null,
    failed_count    bigint      not null,
    constraint deleted_webhooks_pkey primary key (id)
);
comment on table bridge.deleted_webhooks is
    'Deleted webhooks that still have deliveries in the log, and how many. A row is deleted with the last of them.';

-- --- functions

create function bridge.patterns_matching(p_event_type text) returns text[]
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select array[p_event_type]
        || array(
            select array_to_string(parts[1:length], '.') || '.*'
            from string_to_array(p_event_type, '.') as parts,
                 generate_series(cardinality(parts) - 1, 1, -1) as length)
        || array['*']
$$;
comment on function bridge.patterns_matching(text) is
    'Returns every value of webhooks.event_type that matches this event type, the most specific first.';

create function bridge.passes(p_filter jsonpath, p_payload jsonb) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return p_filter is null or coalesce(jsonb_path_match_tz(p_payload, p_filter, '{}', true), false);
exception when others then
    return false;
end
$$;
comment on function bridge.passes(jsonpath, jsonb) is
    'Returns whether a payload passes a webhook''s filter. Errors count as false. Some of them, such as an unset variable or deep nesting, are raised even in jsonpath''s silent mode, and would stop the drain for every webhook.';

-- --- triggers

create function bridge.note_deleted_webhook() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into bridge.deleted_webhooks
        (id, name, url, event_type, deleted_at, delivered_count, failed_count)
    values (old.id, old.name, old.url, old.event_type, now(), old.delivered_count, old.failed_count);
    return null;
end
$$;
comment on function bridge.note_deleted_webhook() is
    'Trigger: keeps a deleted webhook''s name and URL for as long as the log has deliveries to it.';
create trigger note_deleted_webhook
    after delete on bridge.webhooks
    for each row when (old.delivered_count > 0 or old.failed_count > 0)
    execute function bridge.note_deleted_webhook();

create function bridge.forgive_webhook() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    new.disabled_reason := null;
    new.failing_since := null;
    new.failure_share := 0;
    new.probe_at := null;
    return new;
end
$$;
comment on function bridge.forgive_webhook() is
    'Trigger: forgets past failures when a webhook is activated, however that is done. With its old failing_since, the first new failure would disable it again.';
create trigger forgive_webhook
    before update of is_active on bridge.webhooks
    for each row when (new.is_active and not old.is_active)
    execute function bridge.forgive_webhook();
