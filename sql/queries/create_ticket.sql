-- Creates a ticket for one WebSocket, and deletes expired ones.
-- $1 hash of the ticket, $2 source of its token, $3 token id in that source, $4 lifetime in seconds
with forgotten as (
    delete from bridge.ws_tickets
    where ticket_hash = any (array(
        select ticket_hash from bridge.ws_tickets
        where expires_at < now()
        order by expires_at
        limit 1000
        for update skip locked))
)
insert into bridge.ws_tickets (ticket_hash, token_source, token_id, expires_at)
values ($1, $2, $3, now() + make_interval(secs => $4))
returning expires_at;
