"""A follower ends a leader only if it has seen it frozen."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from bridge.database.limits import DRAIN_SECONDS
from bridge.database.pool import Connection
from bridge.relay.takeover import BEAT_SECONDS, FROZEN_SECONDS, LOOK_SECONDS, Takeover

START = datetime(2026, 1, 15, tzinfo=UTC)
#: How long an event loop may be busy.
BUSY_SECONDS = 2.0


class _Leader:
    """A leader's session as a follower sees it, at the times of a virtual clock."""

    def __init__(self, *, is_active: bool = False, obstacle: str | None = None) -> None:
        self.row: dict[str, Any] = {
            "pid": 7,
            "role": "other",
            "bridge": "box:42",
            "since": START,
            "is_active": is_active,
            "obstacle": obstacle,
        }
        self.began = trio.current_time()
        self.ended_after: float | None = None
        self.parameters: Sequence[Any] = ()

    @property
    def seconds(self) -> float:
        return trio.current_time() - self.began

    def move(self) -> None:
        self.row["since"] = START + timedelta(seconds=self.seconds)

    async def fetch(self, name: str, *values: Any) -> list[dict[str, Any]]:
        if name == "leader":
            return [self.row | {"now": START + timedelta(seconds=self.seconds)}]
        assert name == "fence_leader"
        self.ended_after, self.parameters = self.seconds, values
        return [{"is_ended": True}]

    async def watch(self, takeover: Takeover, seconds: float) -> None:
        """Let a follower look at it for this long or until it ends."""
        with trio.move_on_after(seconds):
            while not await takeover.end_frozen_leader(cast("Connection", self)):  # noqa: ASYNC110
                await trio.sleep(0.1)


async def test_frozen_leader_is_ended_within_five_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    leader = _Leader()
    with capture_logs() as logs:
        await leader.watch(Takeover(), 60)
    assert leader.ended_after is not None
    assert FROZEN_SECONDS <= leader.ended_after <= 5
    assert leader.parameters[:2] == (7, START)
    [line] = logs
    assert (line["event"], line["bridge"]) == ("leader_fenced", "box:42")
    assert line["idle_seconds"] == pytest.approx(leader.ended_after, abs=0.1)


async def test_leader_with_a_busy_event_loop_keeps_the_lead(
    autojump_clock: trio.testing.MockClock,
) -> None:
    leader, takeover = _Leader(), Takeover()
    for _ in range(20):
        await leader.watch(takeover, BUSY_SECONDS + BEAT_SECONDS)
        leader.move()
    assert leader.ended_after is None


async def test_follower_that_was_frozen_too_looks_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    leader, takeover = _Leader(), Takeover()
    # At the start, and after a machine with both bridges was paused.
    for paused_seconds in (600, 3600):
        await trio.sleep(paused_seconds)
        await leader.watch(takeover, LOOK_SECONDS + 0.2)
        assert leader.ended_after is None
        leader.move()


async def test_leader_in_a_long_statement_is_not_frozen(
    autojump_clock: trio.testing.MockClock,
) -> None:
    leader = _Leader(is_active=True)
    await leader.watch(Takeover(), FROZEN_SECONDS + DRAIN_SECONDS - 0.1)
    assert leader.ended_after is None


async def test_leader_that_never_reads_its_result_is_ended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """PostgreSQL's limits do not end a statement that waits for its client."""
    leader = _Leader(is_active=True)
    await leader.watch(Takeover(), 60)
    assert leader.ended_after is not None
    assert leader.ended_after >= FROZEN_SECONDS + DRAIN_SECONDS


async def test_leader_out_of_reach_is_reported_once(autojump_clock: trio.testing.MockClock) -> None:
    leader, takeover = _Leader(obstacle="run: grant this to that"), Takeover()
    leader.row["since"] = None  # hidden, too
    with capture_logs() as logs:
        await leader.watch(takeover, 60)
    assert leader.ended_after is None
    assert logs == [
        {
            "event": "takeover_obstructed",
            "log_level": "warning",
            "bridge": "box:42",
            "role": "other",
            "hint": "run: grant this to that",
        }
    ]
