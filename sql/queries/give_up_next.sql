-- Gives up the delivery that a claim takes first, and returns its id; null if none is due.
-- $1 webhook, $2 reason
select bridge.give_up_next($1, $2) as id;
