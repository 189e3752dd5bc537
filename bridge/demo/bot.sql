-- The tables of the Telegram shop bot that the preset captures, as its release 4.1 has them, cut to
-- the columns that matter here.
create table public.users (
    id            serial primary key,
    telegram_id   bigint unique,
    auth_type     varchar(20) not null,
    username      varchar(255),
    first_name    varchar(255),
    last_name     varchar(255),
    status        varchar(20),
    language      varchar(5),
    balance_kopeks integer,
    referred_by_id integer references public.users (id),
    referral_code varchar(20) unique,
    email         varchar(255) unique,
    password_hash varchar(255),
    created_at    timestamptz,
    updated_at    timestamptz,
    last_activity timestamptz
);

create table public.transactions (
    id             serial primary key,
    user_id        integer not null references public.users (id),
    type           varchar(50) not null,
    amount_kopeks  integer not null,
    description    text,
    payment_method varchar(50),
    external_id    varchar(255),
    is_completed   boolean,
    receipt_uuid   varchar(255),
    receipt_created_at timestamptz,
    created_at     timestamptz,
    completed_at   timestamptz,
    constraint uq_transactions_external_id_method unique (external_id, payment_method)
);
create index ix_transactions_user_id on public.transactions (user_id);
create index ix_transactions_type on public.transactions (type);
create index ix_transactions_created_at on public.transactions (created_at);

create table public.tickets (
    id       serial primary key,
    user_id  integer not null references public.users (id),
    title    varchar(255) not null,
    status   varchar(20) not null,
    priority varchar(20) not null,
    user_reply_block_permanent boolean not null,
    user_reply_block_until timestamptz,
    created_at timestamptz,
    updated_at timestamptz,
    closed_at  timestamptz,
    last_sla_reminder_at timestamptz
);

create table public.ticket_messages (
    id            serial primary key,
    ticket_id     integer not null references public.tickets (id),
    user_id       integer not null references public.users (id),
    message_text  text not null,
    is_from_admin boolean not null,
    has_media     boolean,
    media_type    varchar(20),
    media_file_id varchar(255),
    media_caption text,
    media_items   jsonb,
    created_at    timestamptz
);
