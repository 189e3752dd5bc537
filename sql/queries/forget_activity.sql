-- Deletes activity older than 25 hours.
delete from bridge.activity where recorded_at < now() - interval '25 hours';
