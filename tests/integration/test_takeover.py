"""A follower takes over from a leader whose session does not move."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import trio
from structlog.testing import capture_logs

from bridge.database.errors import MissingPartitionError
from bridge.database.pool import Connection, Database, Row, open_database
from bridge.operations.doctor.examine import examine
from bridge.operations.doctor.framework import Finding
from bridge.relay import relay as relay_module
from bridge.relay import takeover
from bridge.relay.doorbell import Mode
from bridge.relay.drain import Drainer
from bridge.settings import load_settings
from tests.integration.relaying import Bot, relaying, sign_up
from tests.system.processes import as_role, as_service
from tests.waiting import until, until_true

LEADER = """
select a.pid, a.state_change, clock_timestamp()
from pg_stat_activity a where a.pid = bridge.leader_pid()
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a leader count as frozen after a moment."""
    monkeypatch.setattr(takeover, "FROZEN_SECONDS", 0.2)
    monkeypatch.setattr(takeover, "WATCHED_SECONDS", 0.1)
    monkeypatch.setattr(takeover, "LOOK_SECONDS", 0.05)


@pytest.fixture
def frozen_leader(bridge_url: str) -> Iterator[Bot]:
    """A session that leads and does nothing, like that of a bridge that is frozen."""
    with psycopg.connect(as_service(bridge_url), autocommit=True) as session:
        assert session.execute("select bridge.lead()").fetchone() == (True,)
        yield session


@pytest.mark.usefixtures("impatient")
async def test_follower_ends_a_frozen_leader_and_drains(
    bridge_url: str, bot: Bot, frozen_leader: Bot
) -> None:
    with capture_logs() as logs:
        async with relaying(as_service(bridge_url), poll_seconds=0.1) as relayed:
            sign_up(bot, "a")
            await relayed.until_count(1)
            assert relayed.relay.leading
    assert [entry["event"] for entry in logs] == ["leader_fenced", "leadership_acquired"]
    assert logs[0]["pid"] == frozen_leader.info.backend_pid
    with pytest.raises(psycopg.errors.AdminShutdown):
        frozen_leader.execute("delete from bridge.outbox")


@pytest.mark.parametrize("mode", ["adaptive", "notify", "poll"])
async def test_idle_leader_moves_whatever_its_poll_interval(
    bridge_url: str, bot: Bot, mode: Mode
) -> None:
    async with relaying(bridge_url, mode=mode, poll_seconds=60) as relayed:
        await until(lambda: relayed.relay.leading)
        moves: set[object] = set()
        while len(moves) < 4:
            moves |= {row[1] for row in bot.execute(LEADER)}
            await trio.sleep(0.02)
        assert relayed.relay.leading


async def test_leader_moves_while_it_waits_for_partitions(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = trio.Event()

    async def create(_database: Database) -> int:
        await created.wait()
        return 1

    async def drain(*_: object, **__: object) -> None:
        if not created.is_set():
            raise MissingPartitionError("no partition")
        await trio.sleep_forever()

    monkeypatch.setattr(relay_module, "create_partitions", create)
    monkeypatch.setattr(Drainer, "drain", drain)
    async with relaying(bridge_url) as relayed:
        await until(lambda: relayed.relay.leading)
        moves: set[object] = set()
        while len(moves) < 4:
            moves |= {row[1] for row in bot.execute(LEADER)}
            await trio.sleep(0.02)
        created.set()


@pytest.mark.usefixtures("impatient")
async def test_leader_that_lives_keeps_the_lead(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Far more often than the follower expects.
    monkeypatch.setattr(relay_module, "BEAT_SECONDS", 0.02)
    looks = 0
    fetch = Connection.fetch

    async def counting(self: Connection, name: str, *values: Any) -> list[Row]:
        nonlocal looks
        looks += name == "leader"
        return await fetch(self, name, *values)

    async with relaying(bridge_url, poll_seconds=60) as leader:
        await until(lambda: leader.relay.leading)
        monkeypatch.setattr(Connection, "fetch", counting)
        async with relaying(bridge_url, poll_seconds=0.05) as follower:
            await until(lambda: looks >= 10)
            assert leader.relay.leading
            assert not follower.relay.leading
            sign_up(bot, "a")
            await follower.until_count(1)


async def fence(
    url: str, *, since: timedelta = timedelta(), looked: timedelta = timedelta()
) -> Sequence[Row]:
    """Fence the leader as a follower that saw something slightly different would."""
    async with open_database(url) as database:
        [row] = await database.fetch("leader")
        return await database.fetch(
            "fence_leader", row["pid"], row["since"] - since, row["now"] - looked, 3.0
        )


async def test_leader_that_has_moved_is_not_ended(
    bridge_url: str, bot: Bot, frozen_leader: Bot
) -> None:
    assert await fence(bridge_url, since=timedelta(microseconds=1)) == []
    # The follower may have been frozen since it looked, and the leader with it.
    assert await fence(bridge_url, looked=timedelta(seconds=4)) == []
    pid = frozen_leader.info.backend_pid
    assert bot.execute("select bridge.leader_pid()").fetchone() == (pid,)
    [row] = await fence(bridge_url)
    assert row["is_ended"]
    assert bot.execute("select bridge.leader_pid()").fetchone() == (None,)


# --- roles


@pytest.fixture
def login(bot: Bot) -> Iterator[Callable[..., str]]:
    """Create logins that are members of bridge_service."""
    with ExitStack() as stack:

        def create(name: str, options: str = "") -> str:
            bot.execute(f"create role {name} login {options} in role bridge_service".encode())
            stack.callback(bot.execute, f"drop role {name}".encode())
            return name

        yield create


def obstacle(bot: Bot, follower: str, leader: str) -> object:
    [(found,)] = bot.execute(
        "select bridge.takeover_obstacle(%s::regrole, %s::regrole)", [follower, leader]
    ).fetchall()
    return found


def test_roles_that_may_take_over(bot: Bot, login: Callable[..., str]) -> None:
    first, second = login("bridge_1"), login("bridge_2")
    advice = (
        "run all bridges as the same login, or run: grant pg_signal_backend, pg_read_all_stats to "
    )
    assert obstacle(bot, first, first) is None
    assert obstacle(bot, "postgres", first) is None
    assert obstacle(bot, first, second) == f"{advice}bridge_1"
    assert obstacle(bot, second, first) == f"{advice}bridge_2"
    bot.execute("grant pg_signal_backend to bridge_1")
    assert obstacle(bot, first, second) == f"{advice}bridge_1"
    bot.execute("grant pg_read_all_stats to bridge_1")
    assert obstacle(bot, first, second) is None
    bot.execute("grant bridge_1 to bridge_2")
    assert obstacle(bot, second, first) is None
    assert obstacle(bot, first, "postgres") == (
        "run all bridges as the same login, which need not be a superuser"
    )


def examined(url: str) -> Finding:
    """Return the doctor's finding about the takeover."""
    [finding] = [
        each
        for each in examine(load_settings(database_url=url, doorbell="poll"), [])
        if each.check == "takeover"
    ]
    return finding


@pytest.mark.usefixtures("impatient")
async def test_follower_without_rights_says_what_to_grant(
    bridge_url: str, bot: Bot, frozen_leader: Bot, login: Callable[..., str]
) -> None:
    name = login("bridge_other")
    advice = (
        "run all bridges as the same login, or run: grant pg_signal_backend, pg_read_all_stats to "
        + name
    )
    with capture_logs() as logs:
        async with relaying(as_role(bridge_url, name), poll_seconds=0.05) as relayed:
            await until(lambda: logs)
            found = await trio.to_thread.run_sync(examined, bridge_url)
            assert not relayed.relay.leading
            bot.execute(f"grant pg_signal_backend, pg_read_all_stats to {name}".encode())
            await until(lambda: relayed.relay.leading)
    assert [entry["event"] for entry in logs] == [
        "takeover_obstructed",
        "leader_fenced",
        "leadership_acquired",
    ]
    assert (logs[0]["role"], logs[0]["hint"]) == ("bridge_login", advice)
    assert found.level == "warning"
    assert found.message == (
        "bridges of bridge_other could not take over from a frozen leader of bridge_login"
    )
    assert found.hint == advice
    await until_true(
        bot, "not exists (select from pg_stat_activity where usename = 'bridge_other')"
    )
    assert examined(bridge_url).level == "ok"
