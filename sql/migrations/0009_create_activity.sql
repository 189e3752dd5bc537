-- Activity: what each bridge did in the last ten seconds. Feeds the charts and shows which bridges run.

create table bridge.activity (
    recorded_at            timestamptz      not null default clock_timestamp(),
    bridge                 text             not null,
    version                text             not null,
    seconds                double precision not null,
    is_last                boolean          not null,
    clients                integer          not null,
    in_flight              integer          not null,
    clients_dropped        bigint           not null,
    events_drained         bigint           not null,
    events_streamed        bigint           not null,
    delivered              bigint           not null,
    retried                bigint           not null,
    failed                 bigint           not null,
    commit_to_client       bigint[],
    commit_to_acknowledged bigint[],
    constraint activity_pkey primary key (recorded_at, bridge),
    constraint activity_seconds_positive check (seconds > 0),
    constraint activity_commit_to_client_whole check (cardinality(commit_to_client) = 21),
    constraint activity_commit_to_acknowledged_whole check (cardinality(commit_to_acknowledged) = 21)
);
comment on table bridge.activity is
    'Activity of each bridge process, one row per ten seconds. A bridge is running if its newest row is at most 30 s old and not its last. Rows are kept for 25 hours: 9,000 rows of up to 600 bytes per process, 6 MB with the index. Only bridges write here; no trigger reads it.';
comment on column bridge.activity.recorded_at is 'When the row was written, by the database''s clock: the end of its interval.';
comment on column bridge.activity.bridge is 'Host and process id, as host:pid, as in drainer.';
comment on column bridge.activity.version is 'Version of pgbridge.';
comment on column bridge.activity.seconds is
    'Length of the interval. More than ten after the database was unreachable: the next row then covers the gap.';
comment on column bridge.activity.is_last is 'The bridge shut down normally; no row of it follows.';
comment on column bridge.activity.clients is 'Connected WebSocket clients at the end of the interval.';
comment on column bridge.activity.in_flight is 'Deliveries being sent or about to be settled at the end of the interval.';
comment on column bridge.activity.clients_dropped is 'Clients that the bridge disconnected or gave up on.';
comment on column bridge.activity.events_drained is 'Events moved from the outbox to the log.';
comment on column bridge.activity.events_streamed is 'Events sent to clients: one event to ten clients counts as ten.';
comment on column bridge.activity.delivered is 'Delivery attempts that succeeded.';
comment on column bridge.activity.retried is 'Delivery attempts that failed and will be retried.';
comment on column bridge.activity.failed is 'Delivery attempts that failed and were the last.';
comment on column bridge.activity.commit_to_client is
    'Histogram of the time from an event''s capture until it was sent to the clients of this bridge; null: no events. Element n counts events above bound n - 1 and up to bound n. Bounds in seconds: 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 3600, infinity.';
comment on column bridge.activity.commit_to_acknowledged is
    'Histogram of the time from an event''s commit to the receiver''s 2xx, with the same bounds.';
comment on index bridge.activity_pkey is
    'running_bridges, activity: the newest rows. forget_activity: the oldest.';
