-- One webhook, or a page of webhooks, newest first, as the API shows them. Every row carries the total; one
-- row without an id if the page is empty.
-- $1 webhook id, or null for any, $2 event_type, or null for any, $3 is_active, or null for any,
-- $4 page size, $5 rows to skip
with matching as materialized (
    select id
    from bridge.webhooks
    where ($1::bigint is null or id = $1)
      and ($2::text is null or event_type = $2)
      and ($3::boolean is null or is_active = $3)
), page as (
    select id from matching order by id desc limit $4 offset $5
)
select (select count(*) from matching) as total,
       w.id, w.name, w.url, w.event_type, w.description, w.is_active, w.disabled_reason,
       w.timeout_seconds, w.max_concurrency, w.filter::text as filter, w.rate_per_second, w.ordered,
       w.retry_schedule, w.paused_at, w.failing_since, w.probe_at, w.created_at, w.updated_at,
       w.last_triggered_at, w.success_count, w.failure_count
from (select) as always
left join bridge.webhooks w on w.id = any (array(select id from page))
order by w.id desc;
