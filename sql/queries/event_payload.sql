-- A piece of the payload of an event as JSON text, or as a string of JSON if it is nested more than a
-- hundred levels deep. No row if the event is not in the log.
-- $1 event id, $2 characters to skip, $3 most characters
select substr(
       case when jsonb_path_exists(payload, 'strict $.**{100} ? (@.type() == "array" || @.type() == "object")')
           then to_jsonb(payload::text)::text
           else payload::text
       end, $2 + 1, $3) as piece
from bridge.events
where id = $1;
