-- TRUNCATE fires no trigger for rows: who emptied a table would have been written down nowhere.

create function bridge.audit_truncate() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count bigint;
begin
    execute format('select count(*) from %s', tg_relid::regclass) into v_count;
    perform bridge.audit(
        format('%s.truncated', tg_argv[0]), null, null, jsonb_build_object('count', v_count));
    return null;
end
$$;
comment on function bridge.audit_truncate() is
    'Trigger: writes into audit_log that a table is emptied, and how many rows it had. Argument: what a row is.';

create trigger audit_truncate before truncate on bridge.webhooks
    for each statement execute function bridge.audit_truncate('webhook');
create trigger audit_truncate before truncate on bridge.api_tokens
    for each statement execute function bridge.audit_truncate('token');
create trigger audit_truncate before truncate on bridge.capture_rules
    for each statement execute function bridge.audit_truncate('rule');

comment on column bridge.ws_tickets.ticket_hash is
    'SHA-256 of the ticket, which is 256 random bits; of a ticket of BRIDGE_TOKEN, a HMAC of that with a key made of BRIDGE_TOKEN, so that it ends with that.';

revoke execute on all functions in schema bridge from public;
