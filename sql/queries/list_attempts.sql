-- The latest attempts of a delivery, in order.
-- $1 delivery id, $2 most attempts
select *
from (
    select attempt_number as number, started_at, finished_at, response_status, response_body, failure,
           error_message
    from bridge.delivery_attempts
    where delivery_id = $1
    order by attempt_number desc, started_at desc
    limit $2
) as latest
order by number, started_at;
