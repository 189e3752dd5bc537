-- A page of webhooks, newest first; every row brings how many there are in all.
-- One row without an id: the page is empty.
-- $1 event_type or null for any, $2 is_active or null for any, $3 rows to show, $4 rows to skip
select matching.total, page.id, page.name, page.url, page.event_type, page.description,
       page.is_active, page.disabled_reason, page.timeout_seconds, page.max_concurrency,
       page.filter::text as filter, page.rate_per_second, page.ordered, page.retry_schedule,
       page.paused_at, page.failing_since, page.probe_at, page.created_at, page.updated_at,
       page.last_triggered_at, page.success_count, page.failure_count
from (
    select count(*) as total
    from bridge.webhooks
    where ($1::text is null or event_type = $1) and ($2::boolean is null or is_active = $2)
) as matching
left join (
    select *
    from bridge.webhooks
    where ($1 is null or event_type = $1) and ($2 is null or is_active = $2)
    order by id desc
    limit $3 offset $4
) as page on true
order by page.id desc;
