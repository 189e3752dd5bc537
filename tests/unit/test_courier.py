"""The courier on a database with a long lock."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
import trio
import trio.testing

from bridge.access.vault import Vault
from bridge.database.clock import ServerClock
from bridge.database.errors import DatabaseError
from bridge.database.pool import Database
from bridge.delivery import claiming
from bridge.delivery.claiming import Claimer
from bridge.delivery.courier import Courier
from bridge.delivery.transport import Transport

LOCKED_SECONDS = 24.0

#: The answer of a claim that found nothing, without the time.
EMPTY = {"id": None, "is_cut": False, **dict.fromkeys(claiming.NEXT)}


class _LockedAtFirst:
    """A database without due deliveries, whose first claim waits for a lock."""

    key = 1

    def __init__(self) -> None:
        #: When each claim started, and whether it was a sweep.
        self.claims: list[tuple[float, bool]] = []

    async def hold_key(self) -> None:
        """Do nothing."""

    async def fetch(self, name: str, *values: Any) -> list[dict[str, Any]]:
        if name == "claim":
            self.claims.append((trio.current_time(), values[7]))
        await trio.sleep(LOCKED_SECONDS if len(self.claims) == 1 else 0.001)
        return [EMPTY | {"now": datetime.now(UTC)}]


class _NoTransport:
    def close_idle(self) -> None:
        """Do nothing."""


async def _no_partitions() -> int:
    return 0


async def test_courier_sweeps_soon_after_a_lock(
    autojump_clock: trio.testing.MockClock,
) -> None:
    database = _LockedAtFirst()
    courier = Courier(
        cast("Database", database),
        cast("Transport", _NoTransport()),
        Vault(),
        concurrency=10,
        schedule=(0.0,),
        disable_seconds=1_000_000.0,
        create_partitions=_no_partitions,
        poll_seconds=1.0,
    )
    with trio.move_on_after(120):
        await courier.run()
    (first, _), *later = database.claims
    unlocked = first + LOCKED_SECONDS
    assert later[0][0] - unlocked <= 2
    swept = [began for began, is_sweep in later if is_sweep]
    assert swept[0] - unlocked <= 3
    # After a quick sweep, the usual pause applies.
    assert swept[2] - swept[1] <= 2.1


class _Scripted:
    """A database without due deliveries that does something during its first claim."""

    def __init__(self, first: Callable[[], None]) -> None:
        self.first = first
        self.sweeps: list[bool] = []

    async def fetch(self, _name: str, *values: Any) -> list[dict[str, Any]]:
        self.sweeps.append(values[7])
        if len(self.sweeps) == 1:
            self.first()
        return [EMPTY | {"now": datetime.now(UTC)}]


def _claimer(database: _Scripted) -> Claimer:
    return Claimer(
        cast("Database", database), ServerClock(), most_failing=1, schedule=(0.0,), owner=1
    )


async def test_wake_up_during_a_sweep_causes_another(
    autojump_clock: trio.testing.MockClock,
) -> None:
    database = _Scripted(lambda: claimer.sweep_next())
    claimer = _claimer(database)
    for _ in range(3):
        await claimer.claim(1, [])
    assert database.sweeps == [True, True, False]


async def test_sweep_that_timed_out_does_not_follow_itself(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def time_out() -> None:
        raise DatabaseError("canceling statement due to statement timeout", "57014")

    database = _Scripted(time_out)
    claimer = _claimer(database)
    with pytest.raises(DatabaseError):
        await claimer.claim(1, [])
    await claimer.claim(1, [])
    assert database.sweeps == [True, False]
