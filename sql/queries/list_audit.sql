-- A page of the audit log, newest first.
-- $1 only entries before this id, or null, $2 page size
select id, changed_at, action, target_id, target, via, actor, address, db_role, changes
from bridge.audit_log
where $1::bigint is null or id < $1
order by id desc
limit $2;
