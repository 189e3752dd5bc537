-- A page of tokens, newest first; and, with every row, how many there are in all. Beyond the last one
-- comes a row without a token, for the number's sake.
-- $1 how many, or null for all; $2 how many to leave out
with total as (
    select count(*) as total from bridge.api_tokens
), page as (
    select id, name, prefix, scopes, created_at, expires_at, last_used_at,
           case
               when revoked_at is not null then 'revoked'
               when expires_at <= now() then 'expired'
               else 'valid'
           end as state
    from bridge.api_tokens
    order by id desc
    limit $1 offset $2
)
select total, page.* from total left join page on true
order by id desc;
