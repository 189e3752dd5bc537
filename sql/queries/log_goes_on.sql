-- Whether the log continues after the last published event, rather than after an earlier one: the
-- database may have been restored from a backup, or be a promoted standby that lagged behind.
-- newest_id is the highest id in the log or, if the log is empty, the last one assigned. The sequence
-- alone is not reliable: a dump that is replayed sets it back.
-- $1 id of the last published event, $2 when it occurred, or null if unknown
select newest.id >= $1
           and not exists (select from bridge.events where id = $1 and occurred_at <> $2) as goes_on,
       newest.id as newest_id
from (
    select coalesce((select max(id) from bridge.events), pg_sequence_last_value('bridge.event_id'), 0) as id
) as newest;
