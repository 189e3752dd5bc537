-- Sends again what a webhook failed to take in a range of time, or counts it.
-- $1 webhook, $2 from then on, $3 before then, or null, $4 whether only to count, $5 how many a second
select bridge.redeliver_failed($1, $2::timestamptz, $3::timestamptz, $4, $5) as count;
