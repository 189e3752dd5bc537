-- Sends the failed deliveries of a webhook again that finished in a time range, or counts them.
-- $1 webhook id, $2 start, $3 end (exclusive) or null, $4 whether only to count, $5 rate per second
select bridge.redeliver_failed($1, $2::timestamptz, $3::timestamptz, $4, $5) as count;
