-- Whether the log continues after the last published event, rather than after an earlier one: the
-- database may have been restored from a backup, or be a promoted standby that lagged behind.
-- newest_id is the highest id in the log or, if the log is empty, the last one assigned. The sequence
-- alone is not reliable: after a crash, and on a standby, it is up to 32 ids ahead.
-- $1 id of the last published event, $2 when it occurred, or null if unknown
select newest.id >= $1
           and not exists (select from bridge.events where id = $1 and occurred_at <> $2) as goes_on,
       newest.id as newest_id
from (select last_value - (not is_called)::integer as id from bridge.event_id) as given_out
cross join lateral (
    select least(coalesce((select max(id) from bridge.events), given_out.id), given_out.id) as id
) as newest;
