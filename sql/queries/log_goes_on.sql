-- Tells whether the log goes on from the last event that was published, and not from an earlier one:
-- the database may have been restored from a backup, or it is now a standby that had lagged behind.
-- newest_id is the last id that was given out.
-- $1 the event's id; $2 when it occurred, null if that is not known
select newest.id >= $1
           and not exists (select from bridge.events where id = $1 and occurred_at <> $2) as goes_on,
       newest.id as newest_id
from (select last_value - (not is_called)::integer as id from bridge.event_id) as newest;
