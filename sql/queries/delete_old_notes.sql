-- Deletes the notes of transactions that have ended.
delete from bridge.transaction_notes where xact < pg_snapshot_xmin(pg_current_snapshot());
