-- Tells whether the log goes on from the last event that was published, and not from an earlier one:
-- the database may have been restored from a backup, or it is now a standby that had lagged behind.
-- newest_id is the newest event of the log; when all of it has expired, the last id that was given out.
-- The sequence alone does not tell: after a crash, and on a standby, it is up to 32 ids ahead.
-- $1 the event's id; $2 when it occurred, null if that is not known
select newest.id >= $1
           and not exists (select from bridge.events where id = $1 and occurred_at <> $2) as goes_on,
       newest.id as newest_id
from (select last_value - (not is_called)::integer as id from bridge.event_id) as given_out
cross join lateral (
    select least(coalesce((select max(id) from bridge.events), given_out.id), given_out.id) as id
) as newest;
