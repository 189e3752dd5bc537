-- After the database's clock was set back, moves stored times back. Returns by how many seconds; 0 if another
-- bridge has done it.
select bridge.shift_times() as step_seconds;
