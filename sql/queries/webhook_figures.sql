-- A webhook's attempts in the last hour and day, like webhook_health, but over a bounded number of
-- deliveries: the newest finished and the oldest pending ones. If those do not cover a day, since says
-- where the figures start, and is_brief whether that is less than an hour ago; otherwise since is null.
-- (webhooks_page explains the pair conditions, which mean webhook_id = $1.)
-- $1 webhook id, $2 most deliveries of each kind
with delivered as materialized (
    select id, finished_at, acknowledged_at, committed_at
    from bridge.delivery_log_success
    where (webhook_id, id) > ($1, 0) and (webhook_id, id) < ($1 + 1, 0)
    order by webhook_id desc, id desc
    limit $2
), failed as materialized (
    select id, finished_at
    from bridge.delivery_log_failed
    where (webhook_id, id) > ($1, 0) and (webhook_id, id) < ($1 + 1, 0)
    order by webhook_id desc, id desc
    limit $2
), waiting as materialized (
    select id, attempt_number
    from bridge.delivery_queue
    where (webhook_id, id) > ($1, 0) and (webhook_id, id) < ($1 + 1, 0)
    order by webhook_id, id
    limit $2
), horizon as materialized (
    select max(cut_at) filter (where cut_at > now() - interval '1 day') as since,
           greatest(max(cut_at), now() - interval '1 day') as begins_at
    from (
        -- Fewer rows than the limit: nothing was cut off.
        select case when count(*) = $2 then min(finished_at) end as cut_at from delivered
        union all
        select case when count(*) = $2 then min(finished_at) end from failed
    ) as cut
), attempt as (
    select a.finished_at > now() - interval '1 hour' as is_recent,
           a.error_message is null as succeeded,
           extract(epoch from a.finished_at - a.started_at)::double precision as seconds
    from (
        select id from delivered where finished_at >= (select begins_at from horizon)
        union all
        select id from failed where finished_at >= (select begins_at from horizon)
        union all
        select id from waiting where attempt_number > 0
    ) as looked_at
    join bridge.delivery_attempts a on a.delivery_id = looked_at.id
    where a.finished_at >= (select begins_at from horizon)
), delivery as (
    select finished_at > now() - interval '1 hour' as is_recent,
           extract(epoch from acknowledged_at - committed_at)::double precision as seconds
    from delivered
    where finished_at >= (select begins_at from horizon)
)
select h.since, h.begins_at > now() - interval '1 hour' as is_brief, a.*, d.*
from horizon h
cross join (
    select count(*) filter (where is_recent) as attempts_hour,
           count(*) as attempts_day,
           round(100.0 * count(*) filter (where is_recent and succeeded)
                 / nullif(count(*) filter (where is_recent), 0), 2)::double precision as success_rate_hour,
           round(100.0 * count(*) filter (where succeeded) / nullif(count(*), 0), 2)::double precision
               as success_rate_day,
           percentile_cont(0.5) within group (order by seconds) filter (where is_recent) as answer_p50_hour,
           percentile_cont(0.95) within group (order by seconds) filter (where is_recent) as answer_p95_hour,
           percentile_cont(0.5) within group (order by seconds) as answer_p50_day,
           percentile_cont(0.95) within group (order by seconds) as answer_p95_day
    from attempt
) as a
cross join (
    select percentile_cont(0.5) within group (order by seconds) filter (where is_recent)
               as commit_to_acknowledged_p50_hour,
           percentile_cont(0.95) within group (order by seconds) filter (where is_recent)
               as commit_to_acknowledged_p95_hour,
           percentile_cont(0.5) within group (order by seconds) as commit_to_acknowledged_p50_day,
           percentile_cont(0.95) within group (order by seconds) as commit_to_acknowledged_p95_day
    from delivery
) as d;
