"""Roles of the application cannot read, forge, divert or block events.

Every test runs a relay with the rights of the service, and expects the next event to arrive.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg
import pytest
import structlog
import trio
from psycopg import errors

from bridge.access.authenticator import Authenticator
from bridge.access.scopes import EVENTS_READ
from bridge.bot.tokens import BotTokens, BotTokenTable
from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import open_database
from tests.integration.relaying import Relayed, names, relaying, sign_up
from tests.system.processes import SERVICE_LOGIN, as_role, as_service
from tests.waiting import notifications, until

Bot = psycopg.Connection[tuple[Any, ...]]
CHANNELS = ("bridge_outbox", "bridge_events", "bridge_deliveries")
#: Names that advisory locks might be derived from.
LOCK_NAMES = (
    "bridge",
    "bridge.drain",
    "bridge.drainer",
    "bridge.leader",
    "bridge.partitions",
    "bridge.redelivery",
    "bridge.install",
)


@pytest.fixture
def session(bridge_url: str, bot: Bot) -> Iterator[Callable[[], Bot]]:
    """Return a function that opens sessions of a role that owns no objects.

    The role may read and write the application's tables, and create objects in public and pg_temp.
    """
    bot.execute(
        "do $$ begin create role clerk login; exception when duplicate_object then null; end $$;"
        "alter role clerk login;"
        "grant usage, create on schema public to clerk;"
        "grant select, insert, update, delete on all tables in schema public to clerk;"
        "grant usage on all sequences in schema public to clerk"
    )
    with ExitStack() as stack:
        yield lambda: stack.enter_context(
            psycopg.connect(as_role(bridge_url, "clerk"), autocommit=True)
        )


@pytest.fixture
def clerk(session: Callable[[], Bot]) -> Bot:
    return session()


@asynccontextmanager
async def at_work(bridge_url: str, **settings: Any) -> AsyncIterator[Relayed]:
    """Run a relay as the service; it drains before the context is entered."""
    async with relaying(as_service(bridge_url), **settings) as relayed:
        await until(lambda: relayed.relay.leading)
        yield relayed


async def assert_captured(relayed: Relayed, clerk: Bot, name: str = "after") -> None:
    """Let the role sign up a user, and wait for the published event."""
    sign_up(clerk, name)
    await relayed.until(lambda: name in names(relayed))


# --- read, forge


@pytest.mark.parametrize(
    "statement",
    [
        "select * from bridge.outbox",
        "select * from bridge.events",
        "select secret from bridge.webhooks",
        "select token_hash from bridge.api_tokens",
        "select * from bridge.leader",
        "insert into bridge.outbox (event_type, payload) values ('user.created', '{}')",
        "insert into bridge.events (event_type, payload, occurred_at) values ('a.b', '{}', now())",
        "copy bridge.outbox (event_type, payload) from program 'echo'",
        "select bridge.emit('user.created', '{}')",
        "select bridge.ring()",
        "select bridge.note('ticket.opened', '1', '{}')",
        "select bridge.lead()",
        "select bridge.create_partitions(current_date, 9)",
        "select bridge.drop_expired_partition('events', 0)",
        "select bridge.redeliver(1)",
        "select bridge.capture_user_created()",
        "create trigger forging after insert on public.users"
        " for each row execute function bridge.capture_user_created()",
        "select nextval('bridge.event_id')",
        "select setval('bridge.event_id', 1)",
        "select setval('bridge.doorbell', 1)",
        "select nextval('bridge.outbox_id_seq')",
        "create table bridge.mine ()",
        "create rule diverting as on insert to bridge.outbox do instead nothing",
        "alter table bridge.outbox disable trigger all",
        "comment on schema bridge is 'mine'",
        "set role bridge_service",
        "set role postgres",
        "set session authorization bridge_login",
        "grant bridge_service to clerk",
        "alter role bridge_login nologin",
        "set session_replication_role = replica",
        "set log_statement = 'all'",
        "alter table public.users disable trigger all",
        'drop trigger "#bridge_001_user_created" on public.users',
        "truncate public.users cascade",
        "lock table bridge.outbox in access share mode",
        "lock table bridge.partitioned_logs in access share mode",
        "lock table bridge.leader in access share mode",
    ],
    ids=lambda text: text[:60],
)
def test_refused(statement: str, clerk: Bot, bot: Bot) -> None:
    with pytest.raises(errors.InsufficientPrivilege), clerk.transaction():
        clerk.execute(statement.encode())


def test_other_roles_may_execute_no_function(clerk: Bot) -> None:
    """Capture functions run with the owner's rights, but only as triggers."""
    functions = clerk.execute(
        "select proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
        " where n.nspname = 'bridge' and has_function_privilege(p.oid, 'execute')"
    ).fetchall()
    assert functions == []


_COLUMNS = "id serial, name text, token_hash text, is_active boolean, expires_at timestamptz"
#: Token tables whose owner's code would run with the rights of the reader.
TRAPS = {
    "view": """
        create view public.web_api_tokens as
        select 1 as id, ''::text as name, md5(random()::text) as token_hash, true as is_active,
               null::timestamptz as expires_at
        where public.trap()""",
    "policy": f"""
        create table public.web_api_tokens ({_COLUMNS});
        insert into public.web_api_tokens (token_hash, is_active) values ('%s', true);
        alter table public.web_api_tokens enable row level security;
        create policy trap on public.web_api_tokens using (public.trap())""",
    "index": f"""
        create table public.web_api_tokens ({_COLUMNS});
        create index on public.web_api_tokens (token_hash) where public.planned_trap(1)""",
    "cast": """
        create type public.flag as (value boolean);
        create function public.cast_trap(public.flag) returns boolean language sql
            as 'select public.trap()';
        create cast (public.flag as boolean)
            with function public.cast_trap(public.flag) as implicit;
        create table public.web_api_tokens (
            id serial, name text, token_hash text, is_active public.flag, expires_at timestamptz);
        insert into public.web_api_tokens (token_hash, is_active) values ('%s', row(true))""",
}


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("is_too_late", [False, True], ids=["told", "sprung"])
async def test_owner_of_the_bots_tokens_runs_no_code_as_the_bridge(
    bridge_url: str, clerk: Bot, bot: Bot, trap: str, is_too_late: bool
) -> None:
    theirs = hashlib.sha256(b"theirs").hexdigest()
    clerk.execute("""
        create function public.trap() returns boolean language plpgsql cost 0.0001 as $$
        begin
            insert into bridge.api_tokens (name, token_hash, prefix, scopes)
            values ('clerk', sha256('mine'), '', array['admin']) on conflict do nothing;
            return true;
        end $$;
        create function public.planned_trap(integer) returns boolean
            language plpgsql immutable as $$
        begin
            if current_user <> 'clerk' then
                perform public.trap();
            end if;
            return true;
        end $$""")
    clerk.execute(TRAPS[trap].replace("%s", theirs).encode())
    clerk.execute(f"grant select on public.web_api_tokens to {SERVICE_LOGIN}".encode())
    async with open_database(as_service(bridge_url)) as database:
        bots = BotTokens("sha256", None, frozenset([EVENTS_READ]))
        store = Authenticator(database, None, bot=BotTokenTable(database, bots))
        if is_too_late:
            # The trap was set between the check of the table and the query.
            with pytest.raises(DatabaseUnavailable, match="read-only transaction"):
                await database.read_foreign("install_lock_holder", "bot_token", theirs)
        with (
            structlog.testing.capture_logs() as logs,
            pytest.raises(DatabaseUnavailable, match="the bot's tokens cannot be read"),
        ):
            await store.authenticate("theirs")
        assert [entry["event"] for entry in logs] == ["bot_token_lookup_failed"]
    assert bot.execute("select from bridge.api_tokens").fetchall() == []


async def test_other_roles_cannot_terminate_the_bridge(bridge_url: str, clerk: Bot) -> None:
    async with at_work(bridge_url) as relayed:
        pids = clerk.execute(
            "select pid from pg_stat_activity where usename = 'bridge_login'"
            " and datname = current_database()"
        ).fetchall()
        assert pids
        for (pid,) in pids:
            for function in ("pg_terminate_backend", "pg_cancel_backend"):
                with pytest.raises(errors.InsufficientPrivilege):
                    clerk.execute(f"select {function}({pid})".encode())
        # Nor can it see their queries.
        shown = clerk.execute(
            "select distinct query from pg_stat_activity where usename = 'bridge_login'"
        ).fetchall()
        assert shown == [("<insufficient privilege>",)]
        await assert_captured(relayed, clerk)


async def test_notifications_carry_no_data(bridge_url: str, session: Callable[[], Bot]) -> None:
    spy = session()
    for channel in CHANNELS:
        spy.execute(f"listen {channel}".encode())
    async with at_work(bridge_url, mode="notify") as relayed:
        await assert_captured(relayed, session(), "secret name")
    heard = notifications(spy, 2)
    assert {notification.channel for notification in heard} == {"bridge_outbox", "bridge_events"}
    assert {notification.payload for notification in heard} == {""}


# --- divert

#: Objects with the names of pgbridge's and PostgreSQL's, to be created in every schema where the
#: role may create. An unqualified name would find them instead.
DIVERSIONS = """
create table {0}.outbox (id bigint generated always as identity, event_type text, payload jsonb,
    captured_at timestamptz);
create table {0}.events (id bigint, event_type text, payload jsonb, occurred_at timestamptz);
create table {0}.partitioned_logs (parent text);
create table {0}.pg_locks (pid int);
create table {0}.pg_class (oid oid);
create function {0}.pg_notify(text, text) returns void language plpgsql
    as $$ begin raise 'diverted'; end $$;
create function {0}.jsonb_build_object(variadic "any") returns jsonb language internal
    immutable as 'jsonb_build_object';
create function {0}.pg_sequence_last_value(regclass) returns bigint language plpgsql
    as $$ begin raise 'diverted'; end $$;
create function {0}.clock_timestamp() returns timestamptz
    language sql as 'select null::timestamptz';
create function {0}.always(bigint, integer) returns boolean language sql as 'select true';
create operator {0}.= (leftarg = bigint, rightarg = integer, function = {0}.always);
create domain {0}.jsonb as text;
create type {0}.timestamptz as (mine int);
create domain {0}.text as varchar(1);
"""


@pytest.mark.parametrize("schema", ["pg_temp", "public"])
async def test_foreign_objects_are_never_mistaken_for_ours(
    schema: str, bridge_url: str, session: Callable[[], Bot]
) -> None:
    clerk, plain = session(), session()
    for statement in DIVERSIONS.format(schema).split(";\n"):
        # Functions in C need a privilege that the role does not have.
        try:
            clerk.execute(statement.encode())
        except errors.InsufficientPrivilege:
            assert "language internal" in statement
    clerk.execute(f"set search_path = {schema}, public, pg_catalog".encode())
    async with at_work(bridge_url) as relayed:
        await assert_captured(relayed, clerk, "diverted")
        await assert_captured(relayed, plain, "plain")
    one, other = (json.loads(event.payload) for event in relayed.events)
    assert one.keys() == other.keys()
    assert (one["username"], other["username"]) == ("diverted", "plain")
    async with open_database(as_service(bridge_url)) as database:
        assert (await database.fetch("create_partitions", 30))[0]["created"] > 0


# --- session settings

SETTINGS = {
    "search_path": "pg_temp",
    "statement_timeout": "10s",
    "lock_timeout": "1ms",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Pacific/Kiritimati",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "row_security": "off",
    "client_encoding": "LATIN1",
    "bridge.leader": "me",
    "bridge.now": "2000-01-01",
    "plpgsql.variable_conflict": "use_variable",
    "plan_cache_mode": "force_generic_plan",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "xmlbinary": "hex",
    "enable_indexscan": "off",
    "work_mem": "64kB",
    "synchronous_commit": "off",
    "check_function_bodies": "off",
    "default_tablespace": "",
    "session_preload_libraries": None,
    "array_nulls": "off",
    "idle_in_transaction_session_timeout": "10s",
}


async def test_session_settings_do_not_change_capture(
    bridge_url: str, session: Callable[[], Bot]
) -> None:
    async with at_work(bridge_url) as relayed:
        expected: dict[str, Any] = {}
        for number, (setting, value) in enumerate({"application_name": "", **SETTINGS}.items()):
            clerk = session()
            if value is None:
                with pytest.raises(errors.InsufficientPrivilege):
                    clerk.execute(f"set {setting} = 'x'".encode())
                continue
            clerk.execute("select set_config(%s, %s, false)", [setting, value])
            await assert_captured(relayed, clerk, f"user {number}")
            payload = json.loads(relayed.events[-1].payload)
            assert payload.pop("username") == f"user {number}"
            assert payload.pop("user_id")
            assert payload == (expected or payload), setting
            expected = payload


async def test_read_only_transaction_makes_no_event(
    bridge_url: str, session: Callable[[], Bot]
) -> None:
    clerk = session()
    clerk.execute("set default_transaction_read_only = on")
    async with at_work(bridge_url) as relayed:
        with pytest.raises(errors.ReadOnlySqlTransaction):
            sign_up(clerk, "unwritten")
        await assert_captured(relayed, session())
        assert names(relayed) == ["after"]


# --- block


async def test_foreign_advisory_locks_block_nothing(
    bridge_url: str, session: Callable[[], Bot], bot: Bot
) -> None:
    clerk = session()
    for name in LOCK_NAMES:
        clerk.execute("select pg_advisory_lock(hashtext(%s))", [name])
        clerk.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [name])
        clerk.execute("select pg_advisory_lock(hashtext(%s), 0)", [name])
    # Also for a transaction, and for a prepared one that is never committed.
    in_transaction, prepared = session(), session()
    in_transaction.execute("begin; select pg_advisory_xact_lock(1)")
    prepared.execute("begin; select pg_advisory_xact_lock(2); prepare transaction 'held'")
    try:
        async with at_work(bridge_url) as relayed:
            await assert_captured(relayed, clerk)
            bot.execute("select bridge.create_partitions(current_date - 50, 1)")
            [(webhook_id,)] = bot.execute(
                "insert into bridge.webhooks (name, url, event_type)"
                " values ('w', 'http://localhost/', 'x') returning id"
            ).fetchall()
            async with open_database(as_service(bridge_url)) as database:
                [row] = await database.fetch("create_partitions", 40)
                assert row["created"] > 0
                [row] = await database.fetch("drop_expired_partition", "events", 35)
                assert row["dropped"].startswith("events_p")
                await database.fetch(
                    "redeliver_failed", webhook_id, datetime.now(UTC), None, False, 20.0
                )
    finally:
        bot.execute("rollback prepared 'held'")


async def test_waiting_for_the_leaders_lock_gives_no_leadership(
    bridge_url: str, session: Callable[[], Bot], bot: Bot
) -> None:
    queued = [session() for _ in range(5)]
    async with at_work(bridge_url) as relayed:
        [(key,)] = bot.execute("select lock_key from bridge.leader").fetchall()
        async with trio.open_nursery() as nursery:
            for each in queued:
                wait = partial(each.execute, "select pg_advisory_xact_lock(%s)", [key])
                nursery.start_soon(partial(trio.to_thread.run_sync, wait, abandon_on_cancel=True))
            waiting = "select count(*) from pg_locks where not granted and locktype = 'advisory'"
            await until(lambda: bot.execute(waiting.encode()).fetchone() == (5,))
            ended = bot.execute("select pg_terminate_backend(bridge.leader_pid(), 10000)")
            assert ended.fetchone() == (True,)
            await assert_captured(relayed, session())
    [(key_now,)] = bot.execute("select lock_key from bridge.leader").fetchall()
    assert key_now != key


async def test_notification_flood_delays_no_event(
    bridge_url: str, session: Callable[[], Bot]
) -> None:
    async with at_work(bridge_url) as relayed:
        flooding = session()
        for channel in CHANNELS:
            flooding.execute(
                "select pg_notify(%s, repeat('x', 100) || n) from generate_series(1, 5000) as n",
                [channel],
            )
        await assert_captured(relayed, session())


async def test_open_transaction_delays_only_its_own_events(
    bridge_url: str, session: Callable[[], Bot]
) -> None:
    staying, clerk = session(), session()
    async with at_work(bridge_url) as relayed:
        with staying.transaction():
            sign_up(staying, "later")
            await assert_captured(relayed, clerk, "now")
            staying.execute("lock table public.tickets in row exclusive mode")
            await assert_captured(relayed, clerk, "still")
        await relayed.until_count(3)
        assert names(relayed) == ["now", "still", "later"]


async def test_prepared_transaction_delays_only_its_own_events(
    bridge_url: str, session: Callable[[], Bot], bot: Bot
) -> None:
    preparing, clerk = session(), session()
    async with at_work(bridge_url, mode="poll", poll_seconds=0.05) as relayed:
        preparing.execute("begin")
        sign_up(preparing, "prepared")
        preparing.execute("prepare transaction 'of the clerk'")
        await assert_captured(relayed, clerk, "now")
        preparing.execute("commit prepared 'of the clerk'")
        await relayed.until_count(2)
        assert names(relayed) == ["now", "prepared"]


async def test_locked_application_tables_do_not_stop_the_bridge(
    bridge_url: str, session: Callable[[], Bot]
) -> None:
    locking = session()
    async with at_work(bridge_url) as relayed:
        with locking.transaction():
            for table in ("tickets", "ticket_messages", "transactions"):
                locking.execute(f"lock table public.{table} in share row exclusive mode".encode())
            await assert_captured(relayed, session())
