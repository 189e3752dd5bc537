-- Moves captured events from the outbox to the log, and enqueues a delivery for every active
-- webhook that takes them; one statement, so all of it happens or none.
-- Every row tells the snapshot that the statement saw: xmin, the oldest transaction in flight, and
-- next_xid, which is past every transaction id that had been given out. (The snapshot's own xmax is
-- not: it is past the last that has ended.) And the time at which it began. Without events there is
-- one row, with nulls.
-- $1 the mark: ids above it are wanted
-- $2, $3 lowest and highest ids of the gaps below the mark that are wanted, too
-- $4 how many events at most
with taken as (
    -- By id, not by joining with a sub-select that has the limit: the planner takes a limit that it
    -- does not know for a tenth of the table, and would read all of it.
    delete from bridge.outbox
    where id = any (array(
        select wanted.id
        from (
            (select o.id
             from unnest($2::bigint[], $3::bigint[]) as gap(low, high)
             cross join lateral (
                 select id from bridge.outbox
                 where id between gap.low and gap.high
                 order by id
                 limit $4) as o)
            union all
            (select id from bridge.outbox where id > $1 order by id limit $4)
        ) as wanted
        order by wanted.id
        limit $4))
    returning id, event_type, payload, captured_at, xmin as xact
), numbered as (
    select nextval('bridge.event_id') as event_id, t.*, t.payload ? '_capture_error' as has_failed,
           case when current_setting('track_commit_timestamp')::boolean
               then pg_xact_commit_timestamp(t.xact) end as committed_at
    from (select * from taken order by id) as t
), logged as (
    insert into bridge.events (id, event_type, payload, occurred_at, committed_at)
    select event_id, event_type, payload, captured_at, committed_at from numbered
), takers as (
    select types.event_type, w.id as webhook_id, w.filter
    from (select distinct event_type from numbered) as types
    cross join lateral unnest(bridge.patterns_matching(types.event_type)) as pattern
    join bridge.webhooks w on w.event_type = pattern and w.is_active
    -- Without webhooks the patterns are not even made, which is a sixth of the statement's time.
    where exists (select from bridge.webhooks where is_active)
), enqueued as (
    insert into bridge.delivery_queue
        (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at)
    select t.webhook_id, n.event_id, now(), n.event_type, n.captured_at,
           coalesce(n.committed_at, n.captured_at)
    from numbered n
    join takers t on t.event_type = n.event_type and (t.filter is null or bridge.passes(t.filter, n.payload))
    order by n.event_id, t.webhook_id
    returning webhook_id
), failed as (
    -- Which rules cannot compute their payloads, for doctor and for whoever asks.
    update bridge.capture_rules r
    set failure_count = r.failure_count + failures.count,
        last_failed_at = failures.last_failed_at,
        last_error = failures.last_error
    from (
        select event_type,
               count(*) as count,
               max(captured_at) as last_failed_at,
               (array_agg(payload ->> '_capture_error' order by id desc))[1] as last_error
        from numbered
        where has_failed
        group by event_type
    ) as failures
    where r.name = failures.event_type
), statement as (
    select snapshot.xmin::text::bigint as xmin,
           -- age() counts from the next id, or from our own, which is as new: no id is used up.
           snapshot.xmin::text::bigint + age(snapshot.xmin::xid) as next_xid,
           (select count(*) from enqueued) as deliveries,
           -- Other bridges read the log.
           (select count(pg_notify('bridge_events', '')) from (select from numbered limit 1) as any_event)
    from (select pg_snapshot_xmin(pg_current_snapshot()) as xmin) as snapshot
)
select now() as now, s.xmin, s.next_xid, s.deliveries,
       n.id as outbox_id, n.event_id, n.event_type, n.payload, n.captured_at, n.has_failed
from statement s
left join numbered n on true
order by n.event_id;
