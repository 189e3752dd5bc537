-- Creates a console session, and deletes expired ones. If there are too many, the oldest end.
-- $1 hash of the session, $2 source of its token, $3 token id in that source, $4 lifetime in seconds,
-- $5 the most sessions of the token, $6 and of all tokens
with forgotten as (
    delete from bridge.console_sessions
    where session_hash = any (
        array(
            select session_hash from bridge.console_sessions
            where expires_at < now()
            order by expires_at
            limit 1000
            for update skip locked)
        || array(
            select session_hash from bridge.console_sessions
            where token_source = $2 and token_id is not distinct from $3
            order by expires_at desc
            offset $5::bigint - 1
            limit 1000
            for update skip locked)
        || array(
            select session_hash from bridge.console_sessions
            order by expires_at desc
            offset $6::bigint - 1
            limit 1000
            for update skip locked))
)
insert into bridge.console_sessions (session_hash, token_source, token_id, expires_at)
values ($1, $2::text, $3::bigint, now() + make_interval(secs => $4));
