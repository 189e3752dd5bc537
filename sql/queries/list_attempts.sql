-- The attempts of a delivery, in order.
-- $1 delivery id
select attempt_number as number, started_at, finished_at, response_status, response_body, failure,
       error_message
from bridge.delivery_attempts
where delivery_id = $1
order by attempt_number, started_at;
