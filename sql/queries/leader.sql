-- The leader's session. since: the start of its statement, or the end of its last one. obstacle: why this
-- session could not end it, as what to do; null if it can.
select a.pid, a.usename::text as role, d.bridge, clock_timestamp() as now,
       a.state = 'active' as is_active,
       case when a.state = 'active' then a.query_start else a.state_change end as since,
       bridge.takeover_obstacle(me.oid, a.usesysid) as obstacle
from pg_stat_activity a
join pg_roles me on me.rolname = current_user
left join bridge.drainer d on true
where a.pid = (select bridge.leader_pid());
