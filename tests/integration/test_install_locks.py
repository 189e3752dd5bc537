"""init never makes the application wait for longer than the lock timeout."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from bridge.capture.apply import apply_steps
from bridge.capture.plan import plan_install
from bridge.capture.rules import load_preset
from bridge.database.migrate import InstallError
from bridge.database.sessions import open_session
from tests.conftest import init
from tests.integration.conftest import Shop
from tests.integration.installing import (
    RULES,
    apply,
    impatient,
    plan,
    triggers,
    with_operations,
    with_payload,
)
from tests.waiting import PATIENCE_SECONDS


def test_init_blocks_writers_no_longer_than_its_lock_timeout(
    bot_url: str,
) -> None:
    stepped_back = threading.Event()
    installed = threading.Event()
    failures: list[Exception] = []

    def report(message: str) -> None:
        if "public.users is locked by pid" in message:
            stepped_back.set()

    def run_init() -> None:
        try:
            with open_session(impatient(bot_url)) as connection:
                steps = plan_install(connection, load_preset("telegram-shop")).steps
                apply_steps(connection, steps, lock_timeout_seconds=0.3, report=report)
        except Exception as error:
            failures.append(error)
        finally:
            installed.set()

    shop = Shop(impatient(bot_url))
    thread = threading.Thread(target=run_init, daemon=True)
    with psycopg.connect(bot_url) as busy:
        busy.execute("insert into public.users (auth_type) values ('telegram')")
        thread.start()
        # The bot keeps signing up users while init tries.
        while not stepped_back.is_set() and not installed.is_set():
            shop.user()  # fails if init waits without a timeout
        assert not installed.is_set(), failures
        assert not triggers(bot_url).keys() & {"#bridge_001_user_created"}
        busy.commit()
    thread.join(PATIENCE_SECONDS)
    assert failures == []
    assert installed.is_set()
    shop.user()
    assert len(shop.events("user.created")) == 1
    shop.close()


def test_init_gives_up_on_a_locked_table_and_names_it(
    bot_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.capture.apply.LOCK_ATTEMPTS", 2)
    with psycopg.connect(bot_url) as busy:
        busy.execute("lock table public.users in row exclusive mode")
        planned = plan(bot_url)
        with pytest.raises(InstallError, match=r"keeps public\.users locked; try again"):
            apply(impatient(bot_url), planned.steps, lock_timeout_seconds=0.05)
    # Completed steps remain, and the next init continues after them.
    again = init(bot_url)
    assert "user.created" in again.new
    assert "note ticket.opened" in again.kept


@contextmanager
def at_work(url: str, statement: str) -> Iterator[int]:
    """Keep a session of the application inside a transaction; yield its pid."""
    with psycopg.connect(url, application_name="nightly import") as busy:
        busy.execute(statement.encode())
        yield busy.info.backend_pid
        busy.rollback()


def refuse_to_wait(message: str) -> None:
    assert "is locked by" not in message


def test_readers_do_not_block_a_first_init(bot_url: str) -> None:
    with (
        at_work(bot_url, "select count(*) from public.users, public.tickets"),
        open_session(impatient(bot_url)) as connection,
    ):
        steps = plan_install(connection, load_preset("telegram-shop")).steps
        apply_steps(connection, steps, lock_timeout_seconds=0.1, report=refuse_to_wait)
    assert len(triggers(bot_url)) == len(RULES)


def test_readers_do_not_block_replacing_a_trigger_in_place(
    bridge_url: str,
) -> None:
    before = triggers(bridge_url)
    with (
        at_work(bridge_url, "select count(*) from public.users"),
        open_session(impatient(bridge_url)) as connection,
    ):
        changed = with_operations("user.created", "insert", "update")
        planned = plan_install(connection, changed)
        assert planned.changed == ["user.created"]
        apply_steps(connection, planned.steps, lock_timeout_seconds=0.1, report=refuse_to_wait)
    assert triggers(bridge_url) == before
    shop = Shop(bridge_url)
    shop.user()
    shop.execute("update public.users set language = 'ru'")
    assert [kind for kind, _ in shop.events()] == ["user.created"] * 2
    shop.close()


@pytest.mark.parametrize(
    "statement",
    [
        "update public.users set language = 'ru'",
        "insert into public.users (auth_type) values ('telegram')",
        "lock table public.users in share mode",
        "lock table public.users in access exclusive mode",
    ],
)
def test_blocking_writer_is_named(
    bot_url: str, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.setattr("bridge.capture.apply.LOCK_ATTEMPTS", 2)
    said: list[str] = []
    with (
        at_work(bot_url, statement) as pid,
        open_session(impatient(bot_url)) as connection,
    ):
        # PostgreSQL cannot parse the SQL of a rule while its table is locked exclusively.
        rules = with_payload("user.created", {"id": "id"})
        steps = plan_install(connection, rules).steps
        with pytest.raises(InstallError) as raised:
            apply_steps(connection, steps, lock_timeout_seconds=0.05, report=said.append)
    who = rf"pid {pid} \(postgres, nightly import, idle in transaction, for \d+ s\)"
    assert re.fullmatch(
        rf"capture user\.created: {who} keeps public\.users locked; try again when it has ended",
        str(raised.value),
    )
    waiting = [message for message in said if "locked" in message]
    assert len(waiting) == 1
    assert re.fullmatch(
        rf"capture user\.created: public\.users is locked by {who}, waiting", waiting[0]
    )


def test_blocking_reader_is_named_when_a_trigger_is_dropped(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.capture.apply.LOCK_ATTEMPTS", 1)
    with at_work(bridge_url, "select count(*) from public.users") as pid:
        wanted = [rule for rule in load_preset("telegram-shop") if rule.name != "user.created"]
        with pytest.raises(InstallError, match=f"^remove user.created: pid {pid} "):
            apply(impatient(bridge_url), plan(bridge_url, wanted).steps, lock_timeout_seconds=0.05)
