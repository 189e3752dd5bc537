-- Deletes a dead letter.
-- $1 dead letter
select bridge.drop_dead_letter($1);
