-- Creates a webhook and returns it as the API shows it. No row if there are too many.
-- $1 name, $2 url, $3 event_type, $4 secret in its stored form, $5 description, $6 is_active,
-- $7 timeout_seconds, $8 max_concurrency, $9 filter as text, $10 rate_per_second, $11 ordered,
-- $12 retry_schedule, $13 the most webhooks that there may be
insert into bridge.webhooks
    (name, url, event_type, secret, description, is_active, timeout_seconds, max_concurrency,
     filter, rate_per_second, ordered, retry_schedule)
select $1::text, $2::text, $3::text, $4::text, $5::text, $6::boolean, $7::integer, $8::integer,
       bridge.to_filter($9::text), $10::double precision, $11::boolean, $12::double precision[]
where (select count(*) from (select from bridge.webhooks limit $13::bigint) as present) < $13
returning id, name, url, event_type, description, is_active, disabled_reason, timeout_seconds,
          max_concurrency, filter::text as filter, rate_per_second, ordered, retry_schedule,
          paused_at, failing_since, probe_at, created_at, updated_at, last_triggered_at,
          success_count, failure_count;
