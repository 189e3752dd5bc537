-- The log of events, and the partitions by day that all logs share.

create table bridge.partitioned_logs (
    parent text not null,
    constraint partitioned_logs_pkey primary key (parent)
);
comment on table bridge.partitioned_logs is 'Which tables of this schema are partitioned by UTC day.';

create function bridge.create_partitions(p_first_day date, p_days integer) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_log       record;
    v_day       date;
    v_partition text;
    v_created   integer := 0;
begin
    -- Bridges that start together take turns.
    perform pg_advisory_xact_lock(hashtext('bridge.partitions'));
    for v_log in select parent from bridge.partitioned_logs order by parent loop
        for v_day in select d::date from generate_series(p_first_day, p_first_day + p_days - 1, interval '1 day') d loop
            v_partition := format('%s_p%s', v_log.parent, to_char(v_day, 'YYYYMMDD'));
            continue when to_regclass(format('bridge.%I', v_partition)) is not null;
            -- Made beside the log and then attached: attaching locks out neither readers nor
            -- writers of the log, CREATE TABLE … PARTITION OF would lock out both.
            execute format(
                'create table bridge.%I (like bridge.%I including defaults including constraints including indexes including storage)',
                v_partition, v_log.parent);
            execute format(
                'alter table bridge.%I attach partition bridge.%I for values from (%L) to (%L)',
                v_log.parent, v_partition,
                to_char(v_day, 'YYYY-MM-DD') || ' 00:00:00+00',
                to_char(v_day + 1, 'YYYY-MM-DD') || ' 00:00:00+00');
            v_created := v_created + 1;
        end loop;
    end loop;
    return v_created;
end
$$;
comment on function bridge.create_partitions(date, integer) is
    'Creates the missing day partitions of every log, from a day on for a number of days. Returns how many it created.';

create sequence bridge.event_id;
comment on sequence bridge.event_id is
    'Ids of the log, given by the one drainer: their order is the order in which commits became visible.';

create table bridge.events (
    id          bigint      not null default nextval('bridge.event_id'),
    event_type  text        not null,
    payload     jsonb       not null,
    occurred_at timestamptz not null,
    recorded_at timestamptz not null default now(),
    constraint events_pkey primary key (id, recorded_at)
) partition by range (recorded_at);
alter sequence bridge.event_id owned by bridge.events.id;
comment on table bridge.events is
    'The log of events, in commit order by id. Never updated; retired by dropping whole days.';
comment on column bridge.events.occurred_at is 'When the application''s statement fired the trigger.';
comment on column bridge.events.recorded_at is 'When the drain moved the event from the outbox to this log.';
comment on index bridge.events_pkey is
    'events_since: everything after an id. Deliveries find their payload by id and recorded_at, in one partition.';

insert into bridge.partitioned_logs (parent) values ('events');
