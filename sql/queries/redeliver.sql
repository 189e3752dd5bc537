-- Sends a delivery again; false: it is pending anyhow, and sent at once.
-- $1 its id
select bridge.redeliver($1) as was_finished;
