-- Signs a browser in to the console, and forgets the sessions that are over.
-- $1 what is stored of the session, $2 where the token is, $3 its id there, $4 seconds that the session lasts
with forgotten as (
    delete from bridge.console_sessions
    where session_hash = any (array(
        select session_hash from bridge.console_sessions
        where expires_at < now()
        order by expires_at
        limit 1000
        for update skip locked))
)
insert into bridge.console_sessions (session_hash, token_source, token_id, expires_at)
values ($1, $2, $3, now() + make_interval(secs => $4));
