-- Sends a delivery again. was_finished is false if it was still pending; it is then sent at once.
-- $1 delivery id
select bridge.redeliver($1) as was_finished;
