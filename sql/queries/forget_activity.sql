-- Forgets what bridges did more than 25 hours ago.
delete from bridge.activity where recorded_at < now() - interval '25 hours';
