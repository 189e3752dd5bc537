-- The last id assigned in the outbox; 0 if none.
select coalesce(pg_sequence_last_value(pg_get_serial_sequence('bridge.outbox', 'id')::regclass), 0) as last_id;
