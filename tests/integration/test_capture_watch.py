"""A running bridge notices rules that capture nothing, and repairs them if it may."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from bridge.capture.apply import set_paused
from bridge.capture.rules import CaptureRule, load_preset, parse_rules
from bridge.database.pool import open_database
from bridge.database.sessions import fetch, open_session
from bridge.operations import capture_watch
from bridge.operations.capture_watch import CaptureWatch, Repair
from bridge.operations.repair import repair_triggers
from bridge.settings import load_settings
from tests.conftest import init
from tests.integration.installing import RULES, triggers
from tests.system.processes import as_service
from tests.waiting import PATIENCE_SECONDS, until

Bot = psycopg.Connection[tuple[Any, ...]]

#: The other rule of public.transactions is not damaged by what names one trigger or function.
PAYMENT = "payment.completed"
OF_TRANSACTIONS = {"transaction.created", PAYMENT}


def blind(url: str) -> dict[str, str]:
    """Return the reasons of blind rules by name, as a bridge without any other rights sees them."""
    with psycopg.connect(as_service(url), autocommit=True) as connection:
        return {row["name"]: row["reason"] for row in fetch(connection, "blind_rules")}


def trigger_of(bot: Bot, rule: str) -> str:
    """Return the name of a rule's trigger."""
    [(name,)] = bot.execute(
        "select trigger_name from bridge.capture_rules where name = %s", (rule,)
    ).fetchall()
    return str(name)


@pytest.mark.parametrize(
    ("damage", "rules", "reason"),
    [
        ("drop table public.transactions cascade", OF_TRANSACTIONS, "table_missing"),
        (
            "create table public.t as table public.transactions;"
            "drop table public.transactions cascade; alter table public.t rename to transactions",
            OF_TRANSACTIONS,
            "trigger_missing",
        ),
        (
            "alter table public.transactions rename to before;"
            "create table public.transactions (like public.before)",
            OF_TRANSACTIONS,
            "trigger_missing",
        ),
        ('drop trigger "{trigger}" on public.transactions', {PAYMENT}, "trigger_missing"),
        ("drop function bridge.capture_payment_completed cascade", {PAYMENT}, "trigger_missing"),
        (
            "alter table public.transactions disable trigger all",
            OF_TRANSACTIONS,
            "trigger_disabled",
        ),
        (
            "alter table public.transactions disable trigger user",
            OF_TRANSACTIONS,
            "trigger_disabled",
        ),
        (
            'alter table public.transactions enable replica trigger "{trigger}"',
            {PAYMENT},
            "trigger_disabled",
        ),
        (
            "create or replace function bridge.capture_payment_completed() returns trigger"
            " language plpgsql as 'begin return null; end'",
            {PAYMENT},
            "function_replaced",
        ),
        ("drop schema public cascade; create schema public", set(RULES), "table_missing"),
        (
            "alter database {database} set session_replication_role = replica",
            set(RULES),
            "turned_off",
        ),
        ("alter database {database} set bridge.capture = off", set(RULES), "turned_off"),
    ],
)
def test_rules_that_capture_nothing_are_found(
    bridge_url: str, bot: Bot, damage: str, rules: set[str], reason: str
) -> None:
    assert blind(bridge_url) == {}
    names = {"trigger": trigger_of(bot, PAYMENT), "database": bot.info.dbname}
    bot.execute(damage.format(**names).encode())
    assert blind(bridge_url) == dict.fromkeys(rules, reason)


@pytest.mark.parametrize(
    "change",
    [
        "alter table public.transactions rename to payments",
        "create schema sales; alter table public.transactions set schema sales",
        'alter trigger "{trigger}" on public.transactions rename to other',
        'alter table public.transactions enable always trigger "{trigger}"',
        "alter table public.transactions rename column amount_kopeks to amount",
        "alter database {database} set quote_all_identifiers = on",
        # A stray trigger of the rule that does not fire.
        "create table public.other (like public.transactions); create trigger stray after insert"
        " on public.other for each row execute function bridge.capture_payment_completed();"
        "alter table public.other disable trigger all",
        "alter role postgres in database {database} set bridge.capture = off",
    ],
)
def test_harmless_changes_blind_no_rule(bridge_url: str, bot: Bot, change: str) -> None:
    names = {"trigger": trigger_of(bot, PAYMENT), "database": bot.info.dbname}
    bot.execute(change.format(**names).encode())
    assert blind(bridge_url) == {}


def test_paused_rules_are_not_blind(bridge_url: str, bot: Bot) -> None:
    with open_session(bridge_url) as connection:
        set_paused(connection, PAYMENT, paused=True)
    assert blind(bridge_url) == {}
    bot.execute("alter table public.transactions disable trigger all")
    assert blind(bridge_url) == {"transaction.created": "trigger_disabled"}


def test_rules_on_tables_that_the_bridge_may_not_see_are_checked(bridge_url: str, bot: Bot) -> None:
    bot.execute('create schema "My shop"; create table "My shop"."A ""table""" (id int)')
    init(
        bridge_url,
        parse_rules(
            '[[capture]]\nevent = \'a.b\'\ntable = \'"My shop"."A ""table"""\'\n'
            "on = 'insert'\npayload = ['id']"
        ),
    )
    assert blind(bridge_url) == {}
    bot.execute('alter table "My shop"."A ""table""" disable trigger all')
    assert blind(bridge_url) == {"a.b": "trigger_disabled"}
    bot.execute('drop schema "My shop" cascade')
    assert blind(bridge_url) == {"a.b": "table_missing"}


def test_rules_that_init_replaces_are_never_blind(bridge_url: str) -> None:
    """Turning a rule into a deferred one drops its function and trigger, and creates others."""
    rules = load_preset("telegram-shop")
    deferred = [
        rule.model_copy(update={"deferred": not rule.deferred})
        if isinstance(rule, CaptureRule)
        else rule
        for rule in rules
    ]

    def replace_rules() -> None:
        for each in (deferred, rules, deferred, rules):
            assert init(bridge_url, each).changed

    installer = threading.Thread(target=replace_rules)
    installer.start()
    with psycopg.connect(as_service(bridge_url), autocommit=True) as connection:
        while installer.is_alive():
            assert fetch(connection, "blind_rules") == []
    installer.join()


# --- the running bridge


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_watch, "LOOK_SECONDS", 0.02)


@asynccontextmanager
async def watching(url: str, repair: Repair | None = None) -> AsyncIterator[CaptureWatch]:
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(as_service(url)) as database, trio.open_nursery() as nursery:
            watch = CaptureWatch(database, repair)
            nursery.start_soon(watch.run)
            yield watch
            nursery.cancel_scope.cancel()


async def until_shown(reason: str, rules: int) -> None:
    await until(lambda: f'blind_rules{{reason="{reason}"}} {rules}.0'.encode() in generate_latest())


async def test_blind_rules_are_logged_once_and_shown(bridge_url: str, bot: Bot) -> None:
    with capture_logs() as logged:
        async with watching(bridge_url) as watch:
            await until_shown("trigger_missing", 0)
            bot.execute("drop table public.transactions cascade")
            await until_shown("table_missing", 2)
            # Still blind, for another reason.
            bot.execute("create table public.transactions (id int)")
            await until_shown("trigger_missing", 2)
            assert watch.trouble() is None  # the other rules capture
            with open_session(bridge_url) as connection:
                set_paused(connection, None, paused=True)
            await until_shown("trigger_missing", 0)
    assert logged == [
        {
            "event": "capture_lost",
            "log_level": "warning",
            "rules": dict.fromkeys(sorted(OF_TRANSACTIONS), "its table no longer exists"),
            "hint": "run: pgbridge doctor",
        },
        {
            "event": "capture_regained",
            "log_level": "info",
            "rules": sorted(OF_TRANSACTIONS),
        },
    ]


async def test_bridge_is_not_ready_while_no_rule_captures(bridge_url: str, bot: Bot) -> None:
    async with watching(bridge_url) as watch:
        bot.execute("alter table public.transactions disable trigger all")
        await until_shown("trigger_disabled", 2)
        assert watch.trouble() is None
        for table in ("users", "tickets", "ticket_messages"):
            bot.execute(f"alter table public.{table} disable trigger all".encode())
        await until(watch.trouble)
        assert watch.trouble() == (
            "no rule captures anything; note ticket.opened: its trigger is disabled; "
            "run: pgbridge doctor"
        )
        init(bridge_url)
        await until(lambda: watch.trouble() is None)


@pytest.mark.parametrize(
    ("damage", "remedy"),
    [
        (
            "revoke select on bridge.capture_rules from bridge_service",
            "grant select on bridge.capture_rules to bridge_service",
        ),
        (
            "alter table bridge.capture_rules enable row level security",
            "alter table bridge.capture_rules disable row level security",
        ),
    ],
)
async def test_bridge_that_cannot_check_its_rules_is_not_ready(
    bridge_url: str, bot: Bot, damage: str, remedy: str
) -> None:
    with capture_logs() as logged:
        async with watching(bridge_url) as watch:
            await until_shown("trigger_missing", 0)
            bot.execute(damage.encode())
            await until(watch.trouble)
            assert "rejects the query about capture rules" in str(watch.trouble())
            assert b"blind_rules{" not in generate_latest()
            bot.execute(remedy.encode())
            await until(lambda: watch.trouble() is None)
            await until_shown("trigger_missing", 0)
    assert [line["event"] for line in logged] == ["database_task_failed"]


# --- repairs


@pytest.fixture
def repair(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Repair]:
    """Return the repair of a bridge that connects with a URL."""
    monkeypatch.setenv("BRIDGE_PRESET", "telegram-shop")

    def of(url: str) -> Repair:
        return lambda: repair_triggers(load_settings(database_url=url))

    return of


@pytest.mark.parametrize(
    "damage",
    [
        'drop trigger "{trigger}" on public.transactions',
        "drop function bridge.capture_payment_completed cascade",
        "alter table public.transactions disable trigger all",
        "create or replace function bridge.capture_payment_completed() returns trigger"
        " language plpgsql as 'begin return null; end'",
        "drop table public.transactions cascade; create table public.transactions"
        " (id int primary key, user_id int, type text, amount_kopeks int, payment_method text,"
        " external_id text, is_completed bool, description text)",
    ],
)
async def test_bridge_of_the_owner_repairs_triggers(
    bridge_url: str, bot: Bot, repair: Callable[[str], Repair], damage: str
) -> None:
    bot.execute(damage.format(trigger=trigger_of(bot, PAYMENT)).encode())
    with capture_logs() as logged:
        async with watching(bridge_url, repair(bridge_url)):
            await until(lambda: "capture_regained" in [line["event"] for line in logged])
    assert [line["event"] for line in logged] == [
        "capture_lost",
        "triggers_repaired",
        "capture_regained",
    ]
    assert f"capture {PAYMENT}" in logged[1]["steps"]
    assert blind(bridge_url) == {}
    bot.execute("insert into public.users (id, auth_type) values (1, 'telegram')")
    bot.execute(
        "insert into public.transactions (id, user_id, type, amount_kopeks, is_completed)"
        " values (7, 1, 'deposit', 5, true)"
    )
    assert bot.execute("select event_type from bridge.outbox order by id").fetchall() == [
        ("user.created",),
        ("transaction.created",),
        (PAYMENT,),
    ]


async def test_bridge_without_the_right_says_which_command_to_run(
    bridge_url: str, bot: Bot, repair: Callable[[str], Repair]
) -> None:
    bot.execute('drop trigger "#bridge_001_user_created" on public.users')
    service = as_service(bridge_url)
    with capture_logs() as logged:
        async with watching(bridge_url, repair(service)):
            await until(lambda: len(logged) > 1)
    [lost, failed] = logged
    assert (lost["event"], failed["event"]) == ("capture_lost", "trigger_repair_failed")
    assert "this role may not create triggers on " in failed["reason"]
    assert failed["hint"] == "run as the owner of the tables: pgbridge init"
    assert "#bridge_001_user_created" not in triggers(bridge_url)


async def test_repair_removes_no_rules(
    bridge_url: str, bot: Bot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pgbridge.toml"
    file.write_text(
        "[[capture]]\nevent = 'user.created'\ntable = 'public.users'\non = 'insert'\n"
        "payload = ['id']\n"
    )
    monkeypatch.setenv("BRIDGE_CONFIG", str(file))
    bot.execute('drop trigger "#bridge_001_user_created" on public.users')
    before = triggers(bridge_url)
    refusal = await repair_triggers(load_settings(database_url=bridge_url))
    assert "lacks note ticket.opened" in str(refusal)
    assert triggers(bridge_url) == before
