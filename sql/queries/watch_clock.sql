-- Notes the database's time. step_seconds: by how much its clock was changed, negative if it was set back;
-- then call shift_times. may_delete: whether what has expired can be deleted.
-- $1 seconds since this bridge last did so, by another clock; null: it has not
select step_seconds, may_delete from bridge.watch_clock($1);
