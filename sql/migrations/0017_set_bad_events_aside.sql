-- Events that PostgreSQL cannot drain: kept aside, so that they stop no others.

create table bridge.dead_letters (
    outbox_id   bigint      not null,
    event_type  text        not null,
    payload     jsonb       not null,
    captured_at timestamptz not null,
    reason      text        not null,
    recorded_at timestamptz not null default now(),
    constraint dead_letters_pkey primary key (outbox_id)
);
comment on table bridge.dead_letters is
    'Events whose payload PostgreSQL could not process in the drain. An event with _capture_error took the place of each.';
comment on column bridge.dead_letters.outbox_id is 'outbox.id.';
comment on column bridge.dead_letters.payload is 'The original payload. Reading it as text may fail as well.';
comment on column bridge.dead_letters.reason is 'The error of the drain.';
