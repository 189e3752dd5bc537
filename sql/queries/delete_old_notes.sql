-- Deletes the notes of finished transactions.
delete from bridge.transaction_notes where xact < pg_snapshot_xmin(pg_current_snapshot());
