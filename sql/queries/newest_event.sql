-- The id of the newest event or, if the log is empty, the last id assigned.
select newest_id from bridge.log_bounds();
