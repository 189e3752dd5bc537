-- The running bridges, one row per process: each has reported within 30 s, and not that it is stopping.
-- reported_seconds: age of the last report. covered_seconds: how much of the minute before it is covered by
-- reports; the counts are for that time. (A report that reaches back further counts in part. Reports
-- from the future were written before the clock was set back, and would hide newer ones.)
with recent as (
    select * from bridge.activity
    where recorded_at > now() - interval '90 seconds' and recorded_at < now() + interval '1 second'
), newest as (
    select distinct on (bridge) bridge, version, clients, in_flight, recorded_at, is_last
    from recent
    order by bridge, recorded_at desc
)
select n.bridge, n.version, n.clients, n.in_flight,
       greatest(extract(epoch from now() - n.recorded_at), 0)::float8 as reported_seconds,
       minute.*
from newest n
cross join lateral (
    select sum(within.seconds) as covered_seconds,
           sum(r.events_drained * within.share) as events_drained,
           sum(r.events_streamed * within.share) as events_streamed,
           sum(r.delivered * within.share) as delivered,
           sum((r.delivered + r.retried + r.failed) * within.share) as attempts
    from recent r
    cross join lateral (
        select least(r.seconds, 60 - extract(epoch from n.recorded_at - r.recorded_at)::float8) as seconds
    ) as part
    cross join lateral (select part.seconds, part.seconds / r.seconds as share) as within
    where r.bridge = n.bridge and r.recorded_at > n.recorded_at - interval '60 seconds'
) as minute
where n.recorded_at > now() - interval '30 seconds' and not n.is_last
order by n.bridge;
