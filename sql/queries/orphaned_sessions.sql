-- Sessions of pgbridge in this database, and which of them have outlived their bridge: a statement or an idle
-- transaction is older than a running bridge allows (an installer's statements may take longer), or the
-- session leads, but has long been idle, and its bridge does not report. The state of other roles' sessions is
-- null without pg_read_all_stats.
-- %(seconds)s age from which a session is an orphan
-- %(pid)s the orphan to end; null: none
select s.*,
       case when s.is_orphan and s.pid = %(pid)s::integer then pg_terminate_backend(s.pid, 2000) end as is_ended
from (
    select a.pid,
           a.usename::text as role,
           a.application_name,
           case when l.leads then l.bridge end as leading_bridge,
           host(a.client_addr) as address,
           a.state,
           t.seconds,
           left(regexp_replace(a.query, '[[:space:][:cntrl:]]+', ' ', 'g'), 60) as statement,
           coalesce(
               t.seconds > %(seconds)s::float8 and (
                   a.state = 'active' and a.application_name <> 'pgbridge-init'
                   or a.state like 'idle in transaction%%'
                   or l.leads and not l.has_reported),
               false) as is_orphan
    from pg_stat_activity a
    cross join lateral (
        select extract(epoch from clock_timestamp()
                       - case when a.state = 'active' then a.query_start else a.state_change end)::float8 as seconds
    ) as t
    left join lateral (
        select a.pid = bridge.leader_pid() as leads,
               d.bridge,
               exists (
                   select from bridge.activity r
                   where r.bridge = d.bridge and not r.is_last
                     and r.recorded_at > clock_timestamp() - make_interval(secs => %(seconds)s::float8)
               ) as has_reported
        from bridge.drainer d
    ) as l on true
    where a.datname = current_database()
      and a.pid <> pg_backend_pid()
      and a.application_name ~ '^pgbridge'
      and a.backend_type is distinct from 'parallel worker'
      -- Any session can give itself such a name.
      and has_schema_privilege(a.usesysid, 'bridge', 'usage')
) as s
order by s.seconds desc nulls last, s.pid;
