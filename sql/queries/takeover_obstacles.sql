-- The logins of running bridges that could not end the session of the leader, and what to do.
select distinct a.usename::text as role, leader.usename::text as leader,
       bridge.takeover_obstacle(a.usesysid, leader.usesysid) as obstacle
from pg_stat_activity a
join pg_stat_activity leader on leader.pid = (select bridge.leader_pid())
where a.datname = current_database()
  and a.application_name = 'pgbridge'
  -- Any session can give itself that name.
  and has_schema_privilege(a.usesysid, 'bridge', 'usage')
  and bridge.takeover_obstacle(a.usesysid, leader.usesysid) is not null
order by role;
