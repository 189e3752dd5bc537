-- Creates deliveries that drains have deferred.
-- deliveries is null if another session is at work. is_empty: none are left.
-- $1 about how many, $2 for about how many milliseconds
select deliveries, is_empty from bridge.queue_deferred($1, $2);
