-- Whether one of the newest events has a type that a pattern selects.
-- $1 pattern, $2 how many events to look at: their types have no index
select exists (
    select
    from (
        select distinct event_type
        from (select event_type from bridge.events order by id desc limit $2) as newest
    ) as logged
    where $1 = any (bridge.patterns_matching(event_type))
) as is_logged;
