-- What all bridges did together, per interval, oldest first. Intervals without rows are included.
-- Intervals start at whole multiples of their length; the last one is still running. A row counts in
-- the interval in which it was written, so intervals below 20 s are uneven.
-- $1 minutes to look back, $2 seconds per interval
with span as (
    select ceil(extract(epoch from now() - make_interval(mins => $1::integer)) / $2::integer)::bigint as first,
           floor(extract(epoch from now()) / $2::integer)::bigint as last
), recent as materialized (
    select floor(extract(epoch from a.recorded_at) / $2::integer)::bigint as point, a.*
    from bridge.activity a, span
    where a.recorded_at >= to_timestamp(span.first * $2::integer)
), of_bridge as (
    select point, bridge,
           (array_agg(clients order by recorded_at desc))[1] as clients,
           sum(clients_dropped) as clients_dropped,
           sum(events_drained) as events_drained,
           sum(events_streamed) as events_streamed,
           sum(delivered) as delivered,
           sum(retried) as retried,
           sum(failed) as failed
    from recent
    group by point, bridge
), counted as (
    select point,
           count(*) as bridges,
           sum(clients) as clients,
           sum(clients_dropped) as clients_dropped,
           sum(events_drained) as events_drained,
           sum(events_streamed) as events_streamed,
           sum(delivered) as delivered,
           sum(retried) as retried,
           sum(failed) as failed
    from of_bridge
    group by point
), of_bucket as (
    select r.point, bucket.place,
           coalesce(sum(bucket.client), 0)::bigint as client,
           coalesce(sum(bucket.acknowledged), 0)::bigint as acknowledged
    from recent r
    cross join lateral unnest(r.commit_to_client, r.commit_to_acknowledged)
        with ordinality as bucket(client, acknowledged, place)
    group by r.point, bucket.place
), timed as (
    select point,
           array_agg(client order by place) as commit_to_client,
           array_agg(acknowledged order by place) as commit_to_acknowledged
    from of_bucket
    group by point
)
select to_timestamp(each.point * $2::integer) as at,
       coalesce(c.bridges, 0)::bigint as bridges,
       coalesce(c.clients, 0)::bigint as clients,
       coalesce(c.clients_dropped, 0)::bigint as clients_dropped,
       coalesce(c.events_drained, 0)::bigint as events,
       coalesce(c.events_streamed, 0)::bigint as streamed,
       coalesce(c.delivered, 0)::bigint as delivered,
       coalesce(c.retried, 0)::bigint as retried,
       coalesce(c.failed, 0)::bigint as failed,
       coalesce(t.commit_to_client, '{}') as commit_to_client,
       coalesce(t.commit_to_acknowledged, '{}') as commit_to_acknowledged
from span
cross join lateral generate_series(span.first, span.last) as each(point)
left join counted c on c.point = each.point
left join timed t on t.point = each.point
order by each.point;
