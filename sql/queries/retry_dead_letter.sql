-- Puts a dead letter back where it came from.
-- $1 dead letter
select bridge.retry_dead_letter($1);
