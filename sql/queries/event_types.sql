-- Event types that rules capture, to suggest to users. (Names of note rules contain a space.)
-- $1 most rows
select name as event_type
from bridge.capture_rules
where name !~ ' '
order by name
limit $1;
