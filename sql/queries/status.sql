-- How far the bridge has got: the queues, counted up to 10,001, and the newest event of the log.
select outbox.count as outbox_count,
       outbox.oldest_seconds as outbox_oldest_seconds,
       (select count(*) from (select from bridge.delivery_queue limit 10001) as pending) as pending_deliveries,
       newest.id as last_event_id,
       newest.occurred_at as last_event_occurred_at
from (
    select count(*) as count,
           extract(epoch from clock_timestamp() - min(captured_at))::float8 as oldest_seconds
    from (select captured_at from bridge.outbox order by id limit 10001) as waiting
) as outbox
left join (
    select id, occurred_at from bridge.events order by id desc limit 1
) as newest on true;
