-- Creates a console session, and deletes expired ones.
-- $1 hash of the session, $2 source of its token, $3 token id in that source, $4 lifetime in seconds
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
