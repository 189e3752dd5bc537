-- Rules whose payloads failed since they were applied, the most recent failure first.
select name,
       failure_count,
       greatest(extract(epoch from clock_timestamp() - last_failed_at), 0)::float8 as seconds,
       last_error
from bridge.capture_rules
where failure_count > 0
order by last_failed_at desc;
