"""No event waits for a missing ring, whatever writers do and whenever the leader changes.

The safety net does not help here: relays poll once a minute, and tests wait half of that.
"""

import json
import random
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import psycopg
import pytest
import trio

from bridge.database.pool import Row
from bridge.relay.doorbell import BUSY_EVENTS, Drained, State
from bridge.relay.drain import Drainer
from tests.integration.relaying import Bot, Relayed, names, relaying, sign_up
from tests.waiting import PATIENCE_SECONDS, notifications, until

SAFETY_NET_SECONDS = 60.0
#: Rows of one commit that make the doorbell quiet at once.
BURST = 2 * BUSY_EVENTS


class Writers:
    """Threads that write in various ways at a changeable pace, and the rows they committed."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._count = count
        self._lock = threading.Condition()
        self._idle = 0
        self._pace: Literal["busy", "calm", "none", "stop"] = "none"
        self.committed: list[str] = []
        self.failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def go(self, pace: Literal["busy", "calm"]) -> None:
        """Write fast enough to make the doorbell quiet, or slowly enough to let it ring."""
        self._set(pace)

    def pause(self) -> int:
        """End all transactions and begin no others; return the number of committed rows."""
        self._set("none")
        with self._lock:
            self._lock.wait_for(lambda: self._idle == self._count)
            return len(self.committed)

    def add(self, *names: str) -> None:
        with self._lock:
            self.committed += names

    def stop(self) -> None:
        self._set("stop")
        for thread in self._threads:
            thread.join()

    def _set(self, pace: Literal["busy", "calm", "none", "stop"]) -> None:
        with self._lock:
            self._pace = pace
            self._lock.notify_all()

    def _run(self, writer: int) -> None:
        chance = random.Random(writer)
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                number = 0
                while (pace := self._next_pace(chance)) != "stop":
                    number += 1
                    self._write(connection, chance, f"{writer}-{number}", pace)
        except BaseException as error:
            self.failures.append(error)
            with self._lock:
                self._idle += 1
                self._lock.notify_all()

    def _next_pace(self, chance: random.Random) -> str:
        with self._lock:
            if self._pace == "calm":
                self._lock.wait(chance.uniform(0.1, 0.3))
            self._idle += 1
            self._lock.notify_all()
            self._lock.wait_for(lambda: self._pace != "none")
            self._idle -= 1
            return self._pace

    def _write(
        self, connection: psycopg.Connection[tuple[object, ...]], chance: random.Random,
        name: str, pace: str,
    ) -> None:  # fmt: skip
        rows = [name]
        if pace == "busy" and chance.random() < 0.3:
            rows = [f"{name}-{each}" for each in range(BURST)]
        way = chance.choice(["single", "single", "savepoint", "rollback", "late", "slow"])
        if way == "single" and len(rows) == 1:
            sign_up(connection, name)
            return self.add(name)
        with connection.transaction(force_rollback=way == "rollback"):
            if way == "late":
                # The transaction id is given out long before the first captured write.
                connection.execute("select pg_current_xact_id()")
                self._dawdle(chance)
            for row in rows:
                sign_up(connection, row)
            if way == "savepoint":
                with connection.transaction(force_rollback=True):
                    sign_up(connection, "never: rolled back to a savepoint")
            if way == "slow":
                self._dawdle(chance)
        if way != "rollback":
            self.add(*rows)
        return None

    def _dawdle(self, chance: random.Random) -> None:
        """Keep the transaction open across switches of the doorbell."""
        with self._lock:
            self._lock.wait_for(lambda: self._pace == "stop", timeout=chance.uniform(0.0, 0.4))


@pytest.fixture
def writers(bridge_url: str) -> Iterator[Writers]:
    started = Writers(bridge_url, 4)
    yield started
    started.stop()
    assert started.failures == []


async def everything_is_published(writers: Writers, relayed: Relayed) -> None:
    """Pause the writers and wait for all committed rows."""
    count = await trio.to_thread.run_sync(writers.pause)
    with trio.fail_after(PATIENCE_SECONDS):
        await relayed.until_count(count)


def check(writers: Writers, relayed: Relayed, bot: Bot) -> None:
    """Check that each commit was published and logged once, in one order, with none left."""
    assert sorted(names(relayed)) == sorted(writers.committed)
    ids = [event.id for event in relayed.events]
    assert ids == sorted(set(ids))
    logged = bot.execute("select id, payload from bridge.events order by id").fetchall()
    assert logged == [(event.id, json.loads(event.payload)) for event in relayed.events]
    assert bot.execute("select count(*) from bridge.outbox").fetchone() == (0,)


def terminate_leader(bot: Bot) -> None:
    """Terminate the session of the leader and wait for its end."""
    row = bot.execute(
        "select count(pg_terminate_backend(bridge.leader_pid(), 10000))"
        " where bridge.leader_pid() is not null"
    ).fetchone()
    assert row == (1,)


async def until_no_leader(bot: Bot) -> None:
    await until(lambda: bot.execute("select bridge.leader_pid()").fetchone() == (None,))


async def until_triggers_are_quiet(bot: Bot, relayed: Relayed) -> None:
    """Wait until the doorbell is quiet for the leader and for the triggers."""
    flag = "select last_value from bridge.doorbell"
    await until(lambda: relayed.state is State.QUIET and bot.execute(flag).fetchone() == (1,))


class Held:
    """Two transactions that began while the doorbell was quiet and end last.

    One has written and will not ring. The other has not written yet.
    """

    def __init__(self, url: str, name: str) -> None:
        self._name = name
        self._slow = psycopg.connect(url)
        sign_up(self._slow, f"{name} slow")
        self._late = psycopg.connect(url)
        self._late.execute("select pg_current_xact_id()")

    async def end_alone(self, writers: Writers, relayed: Relayed) -> None:
        """Commit each while the writers are paused, and wait for its event."""
        await everything_is_published(writers, relayed)
        self._slow.commit()
        writers.add(f"{self._name} slow")
        await everything_is_published(writers, relayed)
        sign_up(self._late, f"{self._name} late")
        self._late.commit()
        writers.add(f"{self._name} late")
        await everything_is_published(writers, relayed)

    def end(self, writers: Writers) -> None:
        """Commit the written row."""
        self._slow.commit()
        self._late.rollback()
        writers.add(f"{self._name} slow")

    def close(self) -> None:
        self._slow.close()
        self._late.close()


async def into(
    state: State, writers: Writers, relayed: Relayed, bot: Bot, url: str, name: str
) -> Held | None:
    """Make the doorbell quiet, then bring it into a state.

    Returns:
        The open transactions that keep it from ringing; None for ``RINGING``.
    """
    writers.go("busy")
    await until_triggers_are_quiet(bot, relayed)
    held = Held(url, name)
    if state is State.RINGING:
        held.end(writers)
        held.close()
    if state is not State.QUIET:
        writers.go("calm")
        await relayed.until_state(state)
    return None if state is State.RINGING else held


@pytest.mark.parametrize("state", State)
async def test_leader_terminated_in_any_state_loses_nothing(
    bridge_url: str, bot: Bot, writers: Writers, state: State
) -> None:
    async with relaying(bridge_url, poll_seconds=SAFETY_NET_SECONDS) as relayed:
        for round_ in range(3):
            held = await into(state, writers, relayed, bot, bridge_url, f"round {round_}")
            assert relayed.state is state
            terminate_leader(bot)
            await until(lambda: relayed.state is None)
            await until(lambda: relayed.state is not None)
            if held is not None:
                await held.end_alone(writers, relayed)
                held.close()
            await everything_is_published(writers, relayed)
        check(writers, relayed, bot)


@pytest.mark.parametrize("state", State)
async def test_takeover_from_any_state_loses_nothing(
    bridge_url: str, bot: Bot, writers: Writers, state: State
) -> None:
    for round_ in range(2):
        async with relaying(bridge_url, poll_seconds=SAFETY_NET_SECONDS) as first:
            held = await into(state, writers, first, bot, bridge_url, f"round {round_}")
            assert first.state is state
        await until_no_leader(bot)
        async with relaying(bridge_url, poll_seconds=SAFETY_NET_SECONDS) as second:
            if held is not None:
                await held.end_alone(writers, second)
                held.close()
            await everything_is_published(writers, second)
            writers.go("calm")
            await second.until_state(State.RINGING)
            await everything_is_published(writers, second)
            check(writers, second, bot)


async def test_switches_of_the_doorbell_lose_nothing(
    bridge_url: str, bot: Bot, writers: Writers
) -> None:
    async with relaying(bridge_url, poll_seconds=SAFETY_NET_SECONDS) as relayed:
        for round_ in range(5):
            held = await into(State.REARMING, writers, relayed, bot, bridge_url, f"round {round_}")
            assert held is not None
            await held.end_alone(writers, relayed)
            held.close()
            writers.go("calm")
            await relayed.until_state(State.RINGING)
            await everything_is_published(writers, relayed)
        check(writers, relayed, bot)
        switches = bot.execute("select switches from bridge.drainer").fetchone()
        assert switches is not None
        assert int(str(switches[0])) >= 10


async def test_mode_notify_always_rings_and_loses_nothing(
    bridge_url: str, bot: Bot, writers: Writers
) -> None:
    # The doorbell is quiet until a bridge leads.
    held = Held(bridge_url, "before")
    async with relaying(bridge_url, mode="notify", poll_seconds=SAFETY_NET_SECONDS) as relayed:
        writers.go("busy")
        await relayed.until_state(State.REARMING)
        await relayed.until_count(20 * BURST)
        assert relayed.state is State.REARMING
        await held.end_alone(writers, relayed)
        held.close()
        for _ in range(2):
            writers.go("busy")
            await relayed.until_state(State.RINGING)
            await relayed.until_count(len(relayed.events) + 10 * BURST)
            terminate_leader(bot)
            await everything_is_published(writers, relayed)
        check(writers, relayed, bot)
        assert bot.execute(
            "select mode, is_quiet, switches, last_value from bridge.drainer, bridge.doorbell"
        ).fetchone() == ("notify", False, 0, 0)


async def test_mode_poll_never_rings_and_loses_nothing(
    bridge_url: str, bot: Bot, writers: Writers
) -> None:
    with psycopg.connect(bridge_url, autocommit=True) as listener:
        listener.execute("listen bridge_outbox")
        async with relaying(bridge_url, mode="poll", poll_seconds=0.1) as relayed:
            held = Held(bridge_url, "held")
            for _ in range(2):
                writers.go("busy")
                await relayed.until_count(len(relayed.events) + 10 * BURST)
                terminate_leader(bot)
                await everything_is_published(writers, relayed)
                writers.go("calm")
                await relayed.until_count(len(relayed.events) + 2)
            await held.end_alone(writers, relayed)
            held.close()
            check(writers, relayed, bot)
        bot.execute("notify bridge_outbox, 'after'")
        received = [each.payload for each in notifications(listener)]
    assert received == ["after"]


# --- without other writers


def burst(bot: Bot) -> None:
    with bot.transaction():
        for _ in range(BURST):
            sign_up(bot, "burst")


async def until_quiet_by_bursts(bot: Bot, relayed: Relayed) -> None:
    """Write until the triggers are quiet; the caller continues before the leader does."""
    await relayed.until_state(State.RINGING)
    with trio.fail_after(PATIENCE_SECONDS):
        burst(bot)
        await until_triggers_are_quiet(bot, relayed)


async def test_transaction_prepared_while_quiet_is_published(bridge_url: str, bot: Bot) -> None:
    async with relaying(bridge_url, poll_seconds=SAFETY_NET_SECONDS) as relayed:
        await until_quiet_by_bursts(bot, relayed)
        bot.execute("begin")
        sign_up(bot, "prepared")
        # PostgreSQL refuses this after a NOTIFY.
        bot.execute("prepare transaction 'two-phase'")
        await relayed.until_state(State.REARMING)
        for number in range(5):
            sign_up(bot, f"meanwhile {number}")
            with trio.fail_after(PATIENCE_SECONDS):
                await relayed.until_count(BURST + number + 1)
        # The leader keeps polling, however long this takes.
        for _ in range(10):
            await until(partial(_polled_since, relayed, relayed.relay._last_round))
        assert relayed.state is State.REARMING
        bot.execute("commit prepared 'two-phase'")
        with trio.fail_after(PATIENCE_SECONDS):
            await relayed.until_count(BURST + 6)
            assert names(relayed)[-1] == "prepared"
            await relayed.until_state(State.RINGING)


def _polled_since(relayed: Relayed, last_round: float) -> bool:
    return relayed.relay._last_round > last_round


async def test_event_while_quiet_waits_only_for_the_next_poll(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    drain = Drainer.drain

    async def counted(self: Drainer, *, everywhere: bool = False) -> tuple[Sequence[Row], Drained]:
        rows, drained = await drain(self, everywhere=everywhere)
        found.append(len(rows))
        return rows, drained

    monkeypatch.setattr(Drainer, "drain", counted)
    with psycopg.connect(bridge_url, autocommit=True) as listener:
        async with relaying(
            bridge_url, poll_seconds=SAFETY_NET_SECONDS, quiet_poll_seconds=0.5
        ) as relayed:
            for number in range(3):
                await until_quiet_by_bursts(bot, relayed)
                listener.execute("listen bridge_outbox")
                before = len(found)
                count = len(relayed.events)
                sign_up(bot, f"quiet {number}")
                assert relayed.state is State.QUIET
                assert relayed.relay.doorbell is not None
                assert relayed.relay.doorbell.pause_seconds == 0.5
                with trio.fail_after(PATIENCE_SECONDS):
                    await relayed.until_count(count + 1)
                # A drain that began before the commit, and the next one.
                assert sum(found[before:]) == 1
                assert len(found) - before <= 2
                bot.execute("notify bridge_outbox, 'after'")
                received = [notify.payload for notify in notifications(listener)]
                assert received == ["after"]
                listener.execute("unlisten bridge_outbox")
