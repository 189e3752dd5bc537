-- A piece of the payload of a delivery as JSON text, or as a string of JSON if it is nested more than a
-- hundred levels deep. Null if the event is no longer in the log; no row if there is no such delivery.
-- $1 delivery id, $2 characters to skip, $3 most characters
select substr(
       case when jsonb_path_exists(payload, 'strict $.**{100} ? (@.type() == "array" || @.type() == "object")')
           then to_jsonb(payload::text)::text
           else payload::text
       end, $2 + 1, $3) as piece
from bridge.webhook_deliveries
where id = $1;
