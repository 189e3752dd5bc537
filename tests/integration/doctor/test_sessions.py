"""The doctor names and ends sessions of pgbridge that have outlived their bridge."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest

from bridge.operations.doctor import sessions
from bridge.operations.doctor.examine import examine
from bridge.operations.doctor.framework import Finding
from bridge.settings import load_settings
from tests.integration.doctor.conftest import Bot, become_drainer
from tests.system.processes import as_role, as_service, pgbridge
from tests.waiting import POLL_SECONDS

#: The bridge's statements begin with a comment, which says what they do.
SLEEP = "-- Sleeps\n-- for ten minutes.\nselect pg_sleep(600)"


@pytest.fixture
def busy(bridge_url: str, bot: Bot) -> Iterator[Callable[..., int]]:
    """Return a function that leaves a session behind, and returns its pid.

    The session ends with the test's database.
    """
    with ExitStack() as stack:

        def start(sql: str = SLEEP, *, name: str = "pgbridge", role: str | None = None) -> int:
            url = as_service(bridge_url) if role is None else as_role(bridge_url, role)
            session = stack.enter_context(psycopg.connect(url, application_name=name))
            session.pgconn.send_query(sql.encode())
            pid = session.info.backend_pid
            seen = "select query, state = 'active' from pg_stat_activity where pid = %s"
            while bot.execute(seen, [pid]).fetchone() != (sql, sql == SLEEP):
                time.sleep(POLL_SECONDS)
            stack.callback(session.pgconn.finish)
            return pid

        yield start


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every statement count as too old."""
    monkeypatch.setattr(sessions, "ORPHAN_SECONDS", 0.0)


def examined(url: str, *, end_orphans: bool = False) -> Finding:
    """Return the doctor's finding about orphans."""
    findings = examine(load_settings(database_url=url), [], end_orphans=end_orphans)
    [finding] = [each for each in findings if each.check == "orphans"]
    return finding


def is_running(bot: Bot, pid: int) -> bool:
    [(count,)] = bot.execute(
        "select count(*) from pg_stat_activity where pid = %s", [pid]
    ).fetchall()
    return bool(count)


@pytest.mark.usefixtures("impatient")
def test_orphaned_statement_is_named_and_ended(
    bridge_url: str, bot: Bot, busy: Callable[..., int]
) -> None:
    pid = busy()
    for url in (bridge_url, as_service(bridge_url)):
        found = examined(url)
        assert found.level == "error"
        assert found.message.startswith(
            f"orphaned sessions: PID {pid} (pgbridge of bridge_login on this machine, active for "
        )
        assert found.message.endswith(": -- Sleeps -- for ten minutes. select pg_sleep(600))")
        assert found.hint == "run: pgbridge doctor --end-orphans"
    assert is_running(bot, pid)
    ended = examined(as_service(bridge_url), end_orphans=True)
    assert ended.level == "ok"
    assert ended.message.startswith(f"ended: PID {pid} (pgbridge of bridge_login ")
    assert not is_running(bot, pid)
    assert examined(bridge_url).message == "no session of pgbridge is orphaned"
    assert examined(bridge_url, end_orphans=True).message == "no session of pgbridge is orphaned"


@pytest.mark.usefixtures("impatient")
def test_command_ends_orphans_and_prints_them_as_json(
    bridge_url: str, bot: Bot, busy: Callable[..., int]
) -> None:
    pid = busy()
    for options, level, word in (
        ([], "error", "orphaned sessions"),
        (["--end-orphans"], "ok", "ended"),
    ):
        ran = pgbridge("doctor", "--json", *options, url=as_service(bridge_url), doorbell="poll")
        [found] = [
            each for each in json.loads(ran.stdout)["findings"] if each["check"] == "orphans"
        ]
        assert found["level"] == level
        assert found["message"].startswith(f"{word}: PID {pid} ")
    assert not is_running(bot, pid)


def test_young_statement_is_no_orphan(bridge_url: str, bot: Bot, busy: Callable[..., int]) -> None:
    pid = busy()
    for end_orphans in (False, True):
        assert examined(bridge_url, end_orphans=end_orphans).level == "ok"
    assert is_running(bot, pid)


@pytest.mark.usefixtures("impatient")
def test_idle_transaction_is_an_orphan(bridge_url: str, bot: Bot, busy: Callable[..., int]) -> None:
    pid = busy("begin; select 1")
    assert f"PID {pid} (pgbridge of bridge_login on this machine, idle in transaction for " in (
        examined(bridge_url, end_orphans=True).message
    )
    assert not is_running(bot, pid)


@pytest.mark.usefixtures("impatient")
def test_sessions_of_the_application_are_never_touched(
    bridge_url: str, bot: Bot, busy: Callable[..., int]
) -> None:
    bot.execute(
        "do $$ begin create role passer_by login; exception when duplicate_object then null; end $$"
    )
    pids = [
        busy(name="shop-bot"),
        busy("begin; select 1", name=""),
        # Any session can give itself any name, but not the bridge's rights.
        busy(role="passer_by"),
        # A migration may take its time.
        busy(name="pgbridge-init"),
        # Idle.
        busy("select 1"),
    ]
    for end_orphans in (False, True):
        assert examined(bridge_url, end_orphans=end_orphans).message == (
            "no session of pgbridge is orphaned"
        )
    assert all(is_running(bot, pid) for pid in pids)


@pytest.mark.usefixtures("impatient")
def test_idle_leader_is_an_orphan_if_its_bridge_is_gone(bridge_url: str, bot: Bot) -> None:
    with psycopg.connect(
        as_service(bridge_url), autocommit=True, application_name="pgbridge"
    ) as leader:
        become_drainer(leader)
        leader.execute(
            "insert into bridge.drainer (bridge, mode, is_quiet) values ('box:7', 'poll', true)"
        )
        record = (
            "insert into bridge.activity (recorded_at, bridge, version, seconds, is_last, clients,"
            " in_flight, clients_dropped, events_drained, events_streamed, delivered, retried,"
            " failed) values (clock_timestamp() + '1 minute', 'box:7', '1', 10, %s,"
            " 0, 0, 0, 0, 0, 0, 0, 0)"
        )
        bot.execute(record, [False])
        assert examined(bridge_url).level == "ok"
        bot.execute("delete from bridge.activity")
        bot.execute(record, [True])
        found = examined(bridge_url)
        assert f"PID {leader.info.backend_pid} (pgbridge of bridge_login on box:7, idle for " in (
            found.message
        )
        assert examined(bridge_url, end_orphans=True).level == "ok"
        assert bot.execute("select bridge.leader_pid()").fetchone() == (None,)


@pytest.mark.usefixtures("impatient")
def test_orphan_that_this_role_may_not_end_is_reported(
    bridge_url: str, bot: Bot, busy: Callable[..., int]
) -> None:
    pid = busy(role="postgres")
    hidden = examined(as_service(bridge_url))
    assert (hidden.level, hidden.message) == (
        "ok",
        "no session of pgbridge is orphaned; those of postgres are hidden from bridge_login, which "
        "needs pg_read_all_stats to see them",
    )
    bot.execute("grant pg_read_all_stats to bridge_login")
    try:
        found = examined(as_service(bridge_url), end_orphans=True)
    finally:
        bot.execute("revoke pg_read_all_stats from bridge_login")
    assert found.level == "error"
    assert found.message.startswith(f"could not end PID {pid} (pgbridge of postgres ")
    assert found.message.endswith("; ended no session")
    assert found.hint == (
        "connect as postgres or a superuser, or run: grant pg_signal_backend to bridge_login"
    )
    assert is_running(bot, pid)
    examined(bridge_url, end_orphans=True)
    assert not is_running(bot, pid)
