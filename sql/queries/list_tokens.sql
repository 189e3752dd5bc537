-- One token, or a page of tokens, newest first. Every row carries the total; one row without an id if the
-- page is empty.
-- $1 token id, or null for all, $2 page size, or null for all, $3 rows to skip
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
    where $1::bigint is null or id = $1
    order by id desc
    limit $2 offset $3
)
select total, page.* from total left join page on true
order by id desc;
