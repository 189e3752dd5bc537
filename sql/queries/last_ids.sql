-- The last ids assigned in the outbox and in the log; 0 if none.
select coalesce(pg_sequence_last_value('bridge.outbox_id_seq'), 0) as outbox_id,
       coalesce(pg_sequence_last_value('bridge.event_id'), 0) as event_id;
