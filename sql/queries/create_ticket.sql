-- Makes a ticket for one WebSocket, and forgets those that nobody has used in time.
-- $1 what is stored of the ticket, $2 where the token is, $3 its id there, $4 seconds that the ticket is good
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
