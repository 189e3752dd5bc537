-- A dump sets sequences back when it is replayed into the same database. Ids must not repeat, and the
-- application's statements must not fail.

-- Rows that wait in the outbox may have ids that the sequence gives out again.
alter table bridge.outbox drop constraint outbox_pkey;
create index outbox_id on bridge.outbox (id);
comment on index bridge.outbox_id is
    'drain: the next ids above the watermark, and single ids below it. Not unique: an application''s statement must not fail because the sequence was set back.';

create function bridge.sequences_behind(p_event_id bigint, p_outbox_id bigint)
returns table (sequence_name text, last_id bigint, used_id bigint)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select s.name, s.last_id, used.id
    from (
        select name, coalesce(pg_sequence_last_value(name::regclass), 0) as last_id, given.used_id
        from (values
            ('bridge.event_id', p_event_id),
            ('bridge.outbox_id_seq', p_outbox_id),
            ('bridge.delivery_queue_id_seq', 0),
            ('bridge.webhooks_id_seq', 0),
            ('bridge.api_tokens_id_seq', 0),
            ('bridge.audit_log_id_seq', 0)
        ) as given(name, used_id)
    ) as s
    cross join lateral (
        select greatest(s.used_id, case s.name
            when 'bridge.event_id' then
                greatest((select max(id) from bridge.events), (select missing_through from bridge.log_start))
            when 'bridge.outbox_id_seq' then (select max(id) from bridge.outbox)
            when 'bridge.delivery_queue_id_seq' then
                greatest((select max(id) from bridge.delivery_queue), (select max(id) from bridge.delivery_log))
            when 'bridge.webhooks_id_seq' then (select max(id) from bridge.webhooks)
            when 'bridge.api_tokens_id_seq' then (select max(id) from bridge.api_tokens)
            when 'bridge.audit_log_id_seq' then (select max(id) from bridge.audit_log)
        end) as id
    ) as used
    where used.id > s.last_id
$$;
comment on function bridge.sequences_behind(bigint, bigint) is
    'Returns sequences that would give out ids which are in use. The parameters are ids of events and of the outbox that are known to have been given out.';

create function bridge.advance_sequences(p_event_id bigint, p_outbox_id bigint)
returns table (sequence_name text, last_id bigint, used_id bigint)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    for sequence_name, last_id, used_id in select * from bridge.sequences_behind(p_event_id, p_outbox_id) loop
        -- Not at once to any number, so that no caller can use up the ids.
        used_id := least(used_id, last_id + 1000000000);
        perform setval(sequence_name, used_id);
        return next;
    end loop;
end
$$;
comment on function bridge.advance_sequences(bigint, bigint) is
    'Moves the sequences_behind past the ids that are in use, and returns them as they were.';
create function bridge.give_event_ids(p_last_id bigint) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_last_id > coalesce(pg_sequence_last_value('bridge.event_id'), 0) then
        perform setval('bridge.event_id', p_last_id);
    end if;
    return p_last_id;
end
$$;
comment on function bridge.give_event_ids(bigint) is
    'Records that event ids up to this one have been given out.';
revoke execute on function bridge.give_event_ids(bigint) from public;
revoke execute on function bridge.sequences_behind(bigint, bigint) from public;
revoke execute on function bridge.advance_sequences(bigint, bigint) from public;

comment on sequence bridge.event_id is
    'The last event id. Each drain assigns ids above it and above all that its bridge has published, and then moves it; so their order is the order in which commits became visible.';
