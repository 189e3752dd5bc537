-- Creates a ticket for one WebSocket, and deletes expired ones. No row if too many are unused.
-- $1 hash of the ticket, $2 source of its token, $3 token id in that source, $4 lifetime in seconds,
-- $5 the most unused tickets of the token, $6 and of all tokens
with forgotten as (
    delete from bridge.ws_tickets
    where ticket_hash = any (array(
        select ticket_hash from bridge.ws_tickets
        where expires_at < now()
        order by expires_at
        limit 1000
        for update skip locked))
), unused as (
    select count(*) as count,
           count(*) filter (where token_source = $2 and token_id is not distinct from $3) as of_token
    from (
        select token_source, token_id from bridge.ws_tickets where expires_at > now() limit $6::bigint
    ) as ticket
)
insert into bridge.ws_tickets (ticket_hash, token_source, token_id, expires_at)
select $1::bytea, $2::text, $3::bigint, now() + make_interval(secs => $4)
from unused
where unused.count < $6 and of_token < $5::bigint
returning expires_at;
