-- Consumes a ticket and returns its token. No row if it is unknown, used or expired.
-- $1 possible hashes of the ticket
with taken as (
    delete from bridge.ws_tickets where ticket_hash = any ($1)
    returning token_source, token_id, expires_at
)
select token_source, token_id from taken where expires_at > now();
