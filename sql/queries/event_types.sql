-- The types of events that rules capture, for who names one. (Rules of notes make no events.)
-- $1 how many at most
select name as event_type
from bridge.capture_rules
where name !~ ' '
order by name
limit $1;
