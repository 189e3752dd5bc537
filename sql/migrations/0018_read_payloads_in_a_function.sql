-- Payloads for claims, read in a function: PostgreSQL 18 crashes if a statement that rechecks a locked
-- row also prunes partitions while it runs.

create function bridge.payload_text(p_event_id bigint, p_recorded_at timestamptz) returns text
-- Not SQL: that would be inlined into the statement.
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select e.payload::text
        from bridge.events e
        where e.id = p_event_id and e.recorded_at = p_recorded_at);
end
$$;
comment on function bridge.payload_text(bigint, timestamptz) is
    'Returns an event''s payload as text; null if it is no longer in the log. For statements that lock rows: in PostgreSQL 18, one that rechecks a locked row and prunes partitions at run time can crash the server.';
revoke execute on function bridge.payload_text(bigint, timestamptz) from public;
