"""How often a bridge looks for blind rules and repairs them."""

from itertools import pairwise
from typing import Any, cast

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.pool import Database
from bridge.operations.capture_watch import CaptureWatch


class Rules:
    """A database with one rule whose state the test sets."""

    def __init__(self, reason: str | None) -> None:
        self.reason = reason
        self.error: Exception | None = None
        self.looks: list[float] = []

    async def fetch(self, _name: str) -> list[dict[str, Any]]:
        self.looks.append(trio.current_time())
        if self.error is not None:
            raise self.error
        if self.reason is None:
            return []
        return [{"name": "a.b", "table_name": "t", "reason": self.reason, "active_count": 2}]


async def run_for(seconds: float, watch: CaptureWatch) -> None:
    with trio.move_on_after(seconds):
        await watch.run()


def watch_of(rules: Rules, repair: Any = None) -> CaptureWatch:
    return CaptureWatch(cast("Database", rules), repair)


async def test_blind_rule_is_noticed_within_a_minute(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rules = Rules(None)
    await run_for(600, watch_of(rules))
    assert max(b - a for a, b in pairwise(rules.looks)) < 60


async def test_failing_repair_is_tried_once_a_minute_and_logged_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tries: list[float] = []
    rules, problems = Rules("trigger_missing"), iter(["locked"] * 9 + ["refused"] * 100)

    async def repair() -> str:
        tries.append(rules.looks[-1])
        return next(problems)

    with capture_logs() as logged:
        await run_for(1200, watch_of(rules, repair))
    assert len(tries) > 9
    assert min(b - a for a, b in pairwise(tries)) >= 60
    assert [(line["event"], line.get("reason")) for line in logged] == [
        ("capture_lost", None),
        ("trigger_repair_failed", "locked"),
        ("trigger_repair_failed", "refused"),
    ]


@pytest.mark.parametrize("reason", ["table_missing", "turned_off", None])
async def test_what_init_cannot_repair_is_left_alone(
    autojump_clock: trio.testing.MockClock, reason: str | None
) -> None:
    async def repair() -> str:
        pytest.fail("tried to repair")

    await run_for(300, watch_of(Rules(reason), repair))


async def test_unavailable_database_changes_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rules = Rules("trigger_disabled")
    watch = watch_of(rules)
    with capture_logs() as logged:
        await run_for(1, watch)
        rules.error = DatabaseUnavailable("down")
        await run_for(100, watch)
        rules.error = None
        await run_for(100, watch)
    assert [line["event"] for line in logged] == ["capture_lost"]
    assert watch.trouble() is None


async def test_refused_query_is_logged_once(autojump_clock: trio.testing.MockClock) -> None:
    rules = Rules(None)
    rules.error = DatabaseError("permission denied")
    watch = watch_of(rules)
    with capture_logs() as logged:
        await run_for(300, watch)
    assert [line["event"] for line in logged] == ["database_task_failed"]
    assert watch.trouble() is not None
