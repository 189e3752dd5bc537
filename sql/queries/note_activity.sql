-- Writes down what a bridge has done since it did so last, which also tells that it runs.
-- $1 its name, host:pid; $2 its version; $3 seconds since then; $4 whether it stops now
-- $5 clients and $6 deliveries in flight now; counted since then: $7 clients dropped, $8 events drained,
-- $9 events streamed, $10 attempts that delivered, $11 that are retried, $12 that were the last;
-- $13 and $14 how long events took to clients and to the receiver's 2xx, as the table has it
insert into bridge.activity
    (bridge, version, seconds, is_last, clients, in_flight, clients_dropped, events_drained,
     events_streamed, delivered, retried, failed, commit_to_client, commit_to_acknowledged)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14);
