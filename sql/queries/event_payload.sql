-- The payload of an event as JSON text, or as a string of JSON if it is nested more than a hundred levels
-- deep. No row if the event is not in the log.
-- $1 event id
select case when jsonb_path_exists(payload, 'strict $.**{100} ? (@.type() == "array" || @.type() == "object")')
           then to_jsonb(payload::text)::text
           else payload::text
       end as payload
from bridge.events
where id = $1;
