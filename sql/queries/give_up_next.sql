-- Gives up the delivery that a claim takes first, and returns it; nulls if none is due.
-- $1 webhook, $2 reason
select delivery_id, event_id, attempt_number from bridge.give_up_next($1, $2);
