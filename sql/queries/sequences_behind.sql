-- Sequences that would give out ids which are in use.
select sequence_name, last_id, used_id from bridge.sequences_behind(0, 0);
