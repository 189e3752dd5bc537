-- Successes are counted later if their webhook's row has just changed. While vacuum is held back, every
-- version of that row slows down each claim, and each delivery that the drain queues.

create table bridge.uncounted_successes (
    id          bigint      generated always as identity,
    recorded_at timestamptz not null default now(),
    webhook_ids bigint[]    not null,
    attempts    bigint[]    not null,
    delivered   bigint[]    not null,
    constraint uncounted_successes_pkey primary key (id)
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000
);
comment on table bridge.uncounted_successes is
    'Successes that the counters of webhooks do not include yet: settle inserts a row per batch, count_successes adds it to webhooks within a second or so.';
comment on column bridge.uncounted_successes.recorded_at is
    'When it was inserted. After a minute, its bridge is gone, and any other counts it.';
comment on column bridge.uncounted_successes.attempts is 'For each webhook of webhook_ids: for success_count.';
comment on column bridge.uncounted_successes.delivered is 'For each webhook of webhook_ids: for delivered_count.';

comment on column bridge.webhooks.success_count is
    'Attempts answered with 2xx, since creation; under load, up to about a second ago.';
comment on column bridge.webhooks.delivered_count is
    'Successful deliveries in the log; under load, up to about a second ago. Maintained by settle, count_successes, requeue and drop_expired_partition, so that the log need not be counted.';
