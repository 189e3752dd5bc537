-- Ends the leader's session, unless it has moved since it was seen or that was too long ago: then this
-- session may have been frozen, and the leader with it.
-- $1 its process id, $2 since when it has not moved, $3 when that was seen, $4 seconds
select pg_terminate_backend(a.pid, 2000) as is_ended
from pg_stat_activity a
where a.pid = $1
  and a.pid = (select bridge.leader_pid())
  and case when a.state = 'active' then a.query_start else a.state_change end = $2
  and clock_timestamp() - $3 < make_interval(secs => $4);
