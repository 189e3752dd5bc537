-- Records what a bridge did since its last record. This also shows that it is running.
-- $1 bridge as host:pid, $2 version, $3 seconds since the last record, $4 whether it is shutting down
-- Now: $5 clients, $6 deliveries in flight
-- Since the last record: $7 clients dropped, $8 events drained, $9 events streamed, $10 attempts that
-- delivered, $11 that will be retried, $12 that were the last
-- $13 and $14 histograms of latency to clients and to the receiver's 2xx, as in the table
insert into bridge.activity
    (bridge, version, seconds, is_last, clients, in_flight, clients_dropped, events_drained,
     events_streamed, delivered, retried, failed, commit_to_client, commit_to_acknowledged)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14);
