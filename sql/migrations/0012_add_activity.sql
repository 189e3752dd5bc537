-- What each bridge has done, ten seconds by ten seconds: what charts are made of, and a sign of life.

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
    'What each bridge did, one row for each process and ten seconds. A bridge whose newest row is not older than 30 s, and not its last, is running. Kept for 25 hours: 9,000 rows of at most 600 bytes for each process, so 6 MB with the index. Nothing but the bridges writes here, and no trigger reads it.';
comment on column bridge.activity.recorded_at is 'When the row was written, by the database''s clock: the end of what it tells of.';
comment on column bridge.activity.bridge is 'Its machine and process, host:pid, as in drainer.';
comment on column bridge.activity.version is 'Of pgbridge.';
comment on column bridge.activity.seconds is
    'How long it tells of; more than ten if the database was away: what was counted then is in the row after it.';
comment on column bridge.activity.is_last is 'The bridge has stopped in order; there is no row of it after this.';
comment on column bridge.activity.clients is 'WebSocket clients that were connected at its end.';
comment on column bridge.activity.in_flight is 'Deliveries that it held at its end: being sent, or about to be settled.';
comment on column bridge.activity.clients_dropped is 'Clients that the bridge sent away or gave up.';
comment on column bridge.activity.events_drained is 'Events moved from the outbox to the log.';
comment on column bridge.activity.events_streamed is 'Events handed to clients: one event to ten clients is ten.';
comment on column bridge.activity.delivered is 'Attempts at deliveries that succeeded.';
comment on column bridge.activity.retried is 'Attempts that failed, and that another one follows.';
comment on column bridge.activity.failed is 'Attempts that failed, and with which the delivery was given up.';
comment on column bridge.activity.commit_to_client is
    'Events by the time from their capture to when they were handed to the clients of this bridge; null: none. Element n counts those of more than bound n - 1 and at most bound n seconds; bounds are 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 3600, and none.';
comment on column bridge.activity.commit_to_acknowledged is
    'Successful deliveries by the time from the event''s commit to the receiver''s 2xx, counted alike.';
comment on index bridge.activity_pkey is
    'running_bridges, activity: the newest rows. forget_activity: the oldest.';
