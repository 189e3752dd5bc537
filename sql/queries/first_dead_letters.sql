-- The oldest dead letters, with the number of all, up to 10,001.
select id, bridge.utf8_text(left(event_type, 255)) as event_type, webhook_id, left(reason, 200) as reason,
       greatest(extract(epoch from clock_timestamp() - recorded_at), 0)::float8 as seconds,
       (select count(*) from (select from bridge.dead_letters limit 10001) as counted) as total
from bridge.dead_letters
order by id
limit 5;
