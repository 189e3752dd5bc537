-- Takes a ticket, which is then gone, and returns the token that it was got with. No row: it is none,
-- or it was used or has expired.
-- $1 what may be stored of the ticket
with taken as (
    delete from bridge.ws_tickets where ticket_hash = any ($1)
    returning token_source, token_id, expires_at
)
select token_source, token_id from taken where expires_at > now();
