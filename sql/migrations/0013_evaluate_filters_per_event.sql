-- Filters: evaluate all those of an event together, and time each.

create function bridge.passing(p_webhook_ids bigint[], p_filters jsonpath[], p_payload jsonb)
returns setof bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Read a large payload from its TOAST table once, not once for each filter.
    v_payload jsonb := p_payload #> '{}';
begin
    return query
        select webhook.id
        from unnest(p_webhook_ids, p_filters) as webhook(id, filter)
        where bridge.passes(webhook.filter, v_payload);
end
$$;
comment on function bridge.passing(bigint[], jsonpath[], jsonb) is
    'Returns the webhooks whose filter a payload passes. The two arrays have the same length.';

create function bridge.filter_milliseconds(p_filter jsonpath, p_payload jsonb)
returns double precision
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_started timestamptz := clock_timestamp();
begin
    perform bridge.passes(p_filter, p_payload);
    return extract(epoch from clock_timestamp() - v_started) * 1000;
end
$$;
comment on function bridge.filter_milliseconds(jsonpath, jsonb) is
    'Returns how long a filter takes on a payload. The drain asks after it ran into its time limit.';
revoke execute on function bridge.passing(bigint[], jsonpath[], jsonb) from public;
revoke execute on function bridge.filter_milliseconds(jsonpath, jsonb) from public;
