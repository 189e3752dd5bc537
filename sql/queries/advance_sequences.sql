-- Moves sequences that were set back, as by a dump that was replayed, past the ids that are in use; returns
-- those it moved.
-- $1, $2 ids of events and of the outbox that are known to have been given out
select sequence_name, last_id, used_id from bridge.advance_sequences($1, $2);
