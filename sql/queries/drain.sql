-- Moves captured events from the outbox to the log, and creates a delivery for every active webhook
-- that matches. One statement, so that it happens as a whole or not at all.
-- Every row carries the statement's start time, whether the outbox has no more events, and the
-- snapshot: xmin, the oldest running transaction, and next_xid, an id above every transaction id
-- assigned so far. (The snapshot's own xmax is only above those of finished transactions.) If there are
-- no events, one row carries only that.
-- The work of one drain is bounded three ways, but it always takes one event. It leaves no event behind
-- because of its deliveries: if there are too many, those to the newest webhooks are left to
-- queue_deferred. So adding webhooks does not delay deliveries to existing ones.
-- $1 watermark: take ids above it
-- $2, $3 lowest and highest ids of the gaps below the watermark that are also taken
-- $4 most events
-- $5 most bytes of payload, by their stored size; compressed ones count ten times, a usual ratio
-- $6 most deliveries to create, before filters are applied; a filter costs as much as a delivery for
--    every 1,000 bytes of payload
-- $7 defer deliveries to webhooks from this id on, because earlier ones are deferred still; null: none are
-- $8 give the events ids above this one and above all that the sequence knows, which may have been set back
with candidates as materialized (
    select wanted.id, wanted.event_type, wanted.bytes
    from (
        (select o.*
         from unnest($2::bigint[], $3::bigint[]) as gap(low, high)
         cross join lateral (
             select id, event_type,
                    pg_column_size(payload) * case when pg_column_compression(payload) is null then 1 else 10 end as bytes
             from bridge.outbox
             where id between gap.low and gap.high
             order by id
             limit $4) as o)
        union all
        (select id, event_type,
                pg_column_size(payload) * case when pg_column_compression(payload) is null then 1 else 10 end
         from bridge.outbox
         where id > $1
         order by id
         limit $4)
    ) as wanted
    order by wanted.id
    limit $4
), fitting as materialized (
    select id, event_type, bytes
    from (select *, sum(bytes) over (order by id rows unbounded preceding) - bytes as bytes_before from candidates) as measured
    where bytes_before < $5
), takers as materialized (
    select types.event_type, w.id as webhook_id, w.filter,
           -- Of the deliveries to this webhook and to all older ones.
           sum(types.count + case when w.filter is null then 0 else types.bytes / 1000 end) over (order by w.id) as cost
    from (select event_type, count(*) as count, sum(bytes) as bytes from fitting group by event_type) as types
    cross join lateral unnest(bridge.patterns_matching(types.event_type)) as pattern
    join bridge.webhooks w on w.event_type = pattern and w.is_active
    -- Without webhooks, skip the patterns: they take a sixth of the statement's time.
    where exists (select from bridge.webhooks where is_active)
), boundary as materialized (
    -- No row if nothing is deferred.
    select webhook_id
    from (select least($7, min(webhook_id) filter (where cost > $6)) as webhook_id from takers) as lowest
    where webhook_id is not null
), served as materialized (
    select event_type, webhook_id, filter from takers where (webhook_id < (select webhook_id from boundary)) is not false
), taken as (
    -- By an array of ids, not by joining a subquery with a limit: the planner assumes that an unknown
    -- limit returns a tenth of the table, and would scan all of it.
    delete from bridge.outbox
    where id = any (array(select id from fitting))
    returning id, event_type, payload, xmin as xact,
              -- Within the range of clients' types: triggers write the time, but others may insert.
              least(greatest(captured_at, '0001-01-02 UTC'), '9999-12-30 UTC') as captured_at
), last_given as materialized (
    select greatest($8, sequence_id) as last_id, sequence_id < $8 as is_set_back
    from (select coalesce(pg_sequence_last_value('bridge.event_id'), 0) as sequence_id) as given
), numbered as (
    -- Not by nextval(): a drain that fails uses up no ids.
    select (select last_id from last_given) + row_number() over (order by t.id) as event_id,
           t.*, t.payload ? '_capture_error' as has_failed,
           case when current_setting('track_commit_timestamp')::boolean
               then pg_xact_commit_timestamp(t.xact) end as committed_at
    from taken t
), logged as (
    insert into bridge.events (id, event_type, payload, occurred_at, committed_at)
    select event_id, event_type, payload, captured_at, committed_at from numbered
    returning id
), filters as materialized (
    select event_type, array_agg(webhook_id) as webhook_ids, array_agg(filter) as filters
    from served
    where filter is not null
    group by event_type
), enqueued as (
    insert into bridge.delivery_queue
        (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at)
    select webhook_id, event_id, now(), event_type, captured_at, coalesce(committed_at, captured_at)
    from (
        select s.webhook_id, n.event_id, n.event_type, n.captured_at, n.committed_at
        from numbered n
        join served s on s.event_type = n.event_type and s.filter is null
        union all
        select passing.webhook_id, n.event_id, n.event_type, n.captured_at, n.committed_at
        from numbered n
        join filters f on f.event_type = n.event_type
        cross join lateral bridge.passing(f.webhook_ids, f.filters, n.payload) as passing(webhook_id)
    ) as matching
    order by event_id, webhook_id
    returning webhook_id
), deferred as (
    insert into bridge.deferred_events
        (event_id, event_recorded_at, event_type, captured_at, committed_at, from_webhook_id)
    select n.event_id, now(), n.event_type, n.captured_at, coalesce(n.committed_at, n.captured_at), b.webhook_id
    from boundary b
    cross join numbered n
    where n.event_type in (select t.event_type from takers t where t.webhook_id >= b.webhook_id)
    returning from_webhook_id
), failed as (
    -- Count failed payloads per rule, for doctor and for operators.
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
           -- age() counts from the next id, or from our own if we have one, which is as new. Neither
           -- assigns an id.
           snapshot.xmin::text::bigint + age(snapshot.xmin::xid) as next_xid,
           found.candidates < $4 and found.candidates = found.fitting as is_complete,
           (select count(*) from enqueued) as deliveries,
           (select min(from_webhook_id) from deferred) as deferred_from,
           coalesce(pg_sequence_last_value('bridge.outbox_id_seq'), 0) as outbox_last_id,
           (select is_set_back from last_given),
           -- After all that can fail, because it is not undone.
           (select bridge.give_event_ids(max(id)) from logged having count(*) > 0) as last_event_id,
           -- Wake the other bridges, which read the log.
           (select count(pg_notify('bridge_events', '')) from (select from numbered limit 1) as any_event)
    from (select pg_snapshot_xmin(pg_current_snapshot()) as xmin) as snapshot
    cross join (select (select count(*) from candidates) as candidates, (select count(*) from fitting) as fitting) as found
)
select now() as now, s.xmin, s.next_xid, s.is_complete, s.deliveries, s.deferred_from, s.outbox_last_id, s.is_set_back,
       n.id as outbox_id, n.event_id as id, n.event_type, n.payload, n.captured_at as occurred_at,
       n.has_failed
from statement s
left join numbered n on true
order by n.event_id;
