-- Whether the log continues after the last published event, rather than after an earlier one: the
-- database may have been restored from a backup, or be a promoted standby that lagged behind. It does not
-- continue either if events after the last published one were dropped.
-- newest_id: see log_bounds().
-- $1 id of the last published event, $2 when it occurred, or null if unknown
select newest_id >= $1
           and missing_through <= $1
           and not exists (select from bridge.events where id = $1 and occurred_at <> $2) as goes_on,
       newest_id
from bridge.log_bounds();
