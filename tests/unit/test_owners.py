"""A courier is dead only if it has had no session for a while, and the server was there."""

import os
import socket
import subprocess
import sys
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from bridge.database.errors import DatabaseUnavailable
from bridge.database.identity import has_ended
from bridge.database.pool import Database
from bridge.database.restart import keep_running
from bridge.delivery.owners import (
    ENDED_GRACE_SECONDS,
    FORGET_SECONDS,
    GRACE_SECONDS,
    RETURN_SECONDS,
    Owners,
)
from tests.waiting import until

START = datetime(2026, 1, 15, tzinfo=UTC)
OWN, OTHER = 1, 2


class _Couriers:
    """A database with couriers, at the times of a virtual clock."""

    key = OWN

    def __init__(self, *, up_seconds: float = 3600.0) -> None:
        self.known = {OWN, OTHER}
        self.without_session: Collection[int] = ()
        self.is_away = False
        #: The name of the other one.
        self.name = f"box:{OTHER}"
        self.server_started_at = START - timedelta(seconds=up_seconds)
        self._began = trio.current_time()

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=trio.current_time() - self._began)

    async def fetch(self, name: str, *values: Any) -> Sequence[dict[str, Any]]:
        if self.is_away:
            raise DatabaseUnavailable("away")
        if name == "note_courier":
            self.known.add(values[0])
        elif name == "forget_couriers":
            self.known -= set(values[0])
        elif name == "couriers":
            return [
                {
                    "id": key,
                    "bridge": self.name if key == OTHER else f"box:{key}",
                    "now": self.now,
                    "server_started_at": self.server_started_at,
                    "is_alive": key not in self.without_session,
                }
                for key in self.known
            ]
        return []


class _Watch:
    """Owners that look at these couriers."""

    def __init__(self, couriers: _Couriers) -> None:
        self.died = 0
        self.owners = Owners(cast("Database", couriers), self._count)

    def _count(self) -> None:
        self.died += 1

    async def look(self, seconds: float) -> bool:
        """Look for this long or until a courier has died; return whether one has."""
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_running, "owners", self.owners.run)
                await until(lambda: self.owners.dead)
                nursery.cancel_scope.cancel()
        return bool(self.owners.dead)


async def test_courier_without_sessions_is_dead_after_the_grace_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    couriers = _Couriers()
    watch = _Watch(couriers)
    assert not await watch.look(5)
    couriers.without_session = {OTHER}
    with capture_logs() as logs:
        assert not await watch.look(GRACE_SECONDS - 0.1)
        assert await watch.look(2)
    assert list(watch.owners.dead) == [OTHER]
    assert watch.died == 1
    assert logs == [{"event": "courier_died", "log_level": "info", "bridge": "box:2"}]


@pytest.fixture
def ended_pid() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


async def test_courier_whose_process_has_ended_is_dead_sooner(
    autojump_clock: trio.testing.MockClock, ended_pid: int
) -> None:
    couriers = _Couriers()
    couriers.name = f"{socket.gethostname()}:{ended_pid}"
    watch = _Watch(couriers)
    # As long as it has a session, it lives: its process ids may be those of a container.
    assert not await watch.look(5)
    couriers.without_session = {OTHER}
    watch = _Watch(couriers)
    assert not await watch.look(ENDED_GRACE_SECONDS - 0.05)
    assert await watch.look(GRACE_SECONDS / 2)


@pytest.mark.parametrize("name", ["elsewhere:{ended}", "{host}:{own}", "{host}:x", "{host}:", "x"])
def test_only_processes_of_this_host_are_known_to_have_ended(name: str, ended_pid: int) -> None:
    host = socket.gethostname()
    assert has_ended(f"{host}:{ended_pid}")
    assert not has_ended(name.format(host=host, own=os.getpid(), ended=ended_pid))
    assert not has_ended(f"{host}:{10**30}")


async def test_courier_that_returns_in_time_lives(autojump_clock: trio.testing.MockClock) -> None:
    couriers = _Couriers()
    watch = _Watch(couriers)
    for _ in range(5):
        couriers.without_session = {OTHER}
        assert not await watch.look(GRACE_SECONDS - 0.3)
        couriers.without_session = ()
        assert not await watch.look(1.1)


async def test_courier_that_returns_late_lives_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    couriers = _Couriers()
    watch = _Watch(couriers)
    couriers.without_session = {OTHER}
    assert await watch.look(5)
    couriers.without_session = ()
    await watch.owners.look()
    assert list(watch.owners.dead) == []


@pytest.mark.parametrize("up_seconds", [0.0, RETURN_SECONDS / 2])
async def test_after_a_start_of_the_server_others_may_take_their_time(
    up_seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    couriers = _Couriers(up_seconds=up_seconds)
    couriers.without_session = {OTHER}
    watch = _Watch(couriers)
    assert not await watch.look(RETURN_SECONDS - up_seconds - 0.1)
    assert await watch.look(2)


async def test_after_an_outage_others_may_take_their_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    couriers = _Couriers()
    watch = _Watch(couriers)
    assert not await watch.look(2)
    couriers.is_away = True
    assert not await watch.look(30)
    couriers.is_away = False
    couriers.without_session = {OTHER}
    assert not await watch.look(RETURN_SECONDS - 0.1)
    # The pause before the first look may have been long.
    assert await watch.look(10)


async def test_after_a_failover_others_may_take_their_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    couriers = _Couriers()
    watch = _Watch(couriers)
    assert not await watch.look(2)
    # A standby that has long been up, reached without an error.
    couriers.server_started_at -= timedelta(days=3)
    couriers.without_session = {OTHER}
    assert not await watch.look(RETURN_SECONDS - 1)
    assert await watch.look(3)


async def test_lost_registration_is_renewed(autojump_clock: trio.testing.MockClock) -> None:
    couriers = _Couriers()
    couriers.known.clear()
    watch = _Watch(couriers)
    assert not await watch.look(2)
    assert couriers.known == {OWN}


async def test_dead_courier_is_forgotten_when_its_leases_have_expired(
    autojump_clock: trio.testing.MockClock,
) -> None:
    couriers = _Couriers()
    couriers.without_session = {OTHER}
    watch = _Watch(couriers)
    assert await watch.look(5)
    looks = 0
    while OTHER in couriers.known:
        looks += 1
        await trio.sleep(1)
        await watch.owners.look()
    assert looks == pytest.approx(FORGET_SECONDS, abs=3)
    assert watch.died == 1
