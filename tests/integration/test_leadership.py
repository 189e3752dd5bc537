"""One session leads, whatever locks others hold; when it ends, another takes over."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from tests.system.processes import as_role, as_service
from tests.waiting import PATIENCE_SECONDS

Bot = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def session(bridge_url: str) -> Iterator[Callable[..., Bot]]:
    """Open sessions of a bridge or of another role."""
    with ExitStack() as stack:

        def connect(role: str | None = None) -> Bot:
            url = as_service(bridge_url) if role is None else as_role(bridge_url, role)
            return stack.enter_context(psycopg.connect(url, autocommit=True))

        yield connect


@pytest.fixture
def stranger(bot: Bot, session: Callable[..., Bot]) -> Bot:
    """Open a session of a role that may only connect."""
    bot.execute(
        "do $$ begin create role passer_by login; exception when duplicate_object then null; end $$"
    )
    return session("passer_by")


def leads(connection: Bot) -> bool:
    """Try to lead; return whether the session leads."""
    [(leading,)] = connection.execute("select bridge.lead()").fetchall()
    [(seen,)] = connection.execute("select bridge.leader_pid()").fetchall()
    assert (seen == connection.info.backend_pid) is leading
    return bool(leading)


def end(connection: Bot, bot: Bot) -> None:
    """Terminate a session and wait for its end."""
    pid = connection.info.backend_pid
    assert bot.execute("select pg_terminate_backend(%s, 10000)", [pid]).fetchone() == (True,)


def named(bot: Bot) -> tuple[int, int]:
    """Return the pid and the key in ``bridge.leader``."""
    [(pid, key)] = bot.execute("select pid, lock_key from bridge.leader").fetchall()
    return pid, key


def test_leader_stays_until_its_session_ends(session: Callable[..., Bot], bot: Bot) -> None:
    first, second = session(), session()
    assert leads(first)
    assert not leads(second)
    assert leads(first)
    _, key = named(bot)
    end(first, bot)
    assert bot.execute("select bridge.leader_pid()").fetchone() == (None,)
    assert leads(second)
    assert named(bot)[1] != key


def test_one_of_many_concurrent_sessions_leads(session: Callable[..., Bot], bot: Bot) -> None:
    sessions = [session() for _ in range(12)]
    for _ in range(10):
        together = threading.Barrier(len(sessions))

        def lead(connection: Bot, together: threading.Barrier = together) -> bool:
            together.wait(PATIENCE_SECONDS)
            [(leading,)] = connection.execute("select bridge.lead()").fetchall()
            return bool(leading)

        with ThreadPoolExecutor(len(sessions)) as pool:
            leading = list(pool.map(lead, sessions))
        assert sum(leading) == 1
        leader = sessions.pop(leading.index(True))
        assert bot.execute("select bridge.leader_pid()").fetchone() == (leader.info.backend_pid,)
        end(leader, bot)
        sessions.append(session())


def test_lock_of_the_leader_does_not_make_a_leader(
    session: Callable[..., Bot], stranger: Bot, bot: Bot
) -> None:
    first, second = session(), session()
    assert leads(first)
    _, key = named(bot)
    # Every role can see the key.
    shown = stranger.execute(
        "select classid::bigint << 32 | objid::bigint from pg_locks where locktype = 'advisory'"
        " and granted and database = (select oid from pg_database where datname=current_database())"
    ).fetchall()
    assert (key,) in shown
    waiting = threading.Thread(
        target=lambda: stranger.execute("select pg_advisory_lock(%s)", [key]), daemon=True
    )
    waiting.start()
    query = "select from pg_locks where not granted and pid = %s"
    while not bot.execute(query, [stranger.info.backend_pid]).fetchall():
        assert waiting.is_alive()
    end(first, bot)
    waiting.join(30)
    assert not waiting.is_alive()
    assert leads(second)


def test_other_role_with_the_leaders_pid_and_key_is_no_leader(
    session: Callable[..., Bot], stranger: Bot, bot: Bot
) -> None:
    """A process id may be reused."""
    first, second = session(), session()
    assert leads(first)
    _, key = named(bot)
    end(first, bot)
    stranger.execute("select pg_advisory_lock(%s)", [key])
    bot.execute("update bridge.leader set pid = %s", [stranger.info.backend_pid])
    assert bot.execute("select bridge.leader_pid()").fetchone() == (None,)
    assert leads(second)


def test_row_from_another_server_names_no_leader(session: Callable[..., Bot], bot: Bot) -> None:
    """The row may be restored from a backup or copied with the files of the database."""
    bot.execute("insert into bridge.leader (pid, role_id, lock_key) values (4242, 10, 42)")
    assert leads(session())


def test_locked_table_means_no_leader_and_no_wait(session: Callable[..., Bot], bot: Bot) -> None:
    with bot.transaction():
        bot.execute("lock table bridge.leader in exclusive mode")
        assert not leads(session())
    assert leads(session())
