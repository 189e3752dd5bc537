"""The database's time is estimated from its last answer."""

import time
from datetime import UTC, datetime

import pytest

from bridge.database.clock import ServerClock


def test_time_runs_from_when_the_database_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = ServerClock()
    asked = clock.asks()
    now = 1003.0  # the answer was slow
    clock.answered(datetime(2026, 1, 15, 10, 30, 0, tzinfo=UTC), asked)
    assert clock.now() == datetime(2026, 1, 15, 10, 30, 3, tzinfo=UTC)
    now = 1010.5
    assert clock.now() == datetime(2026, 1, 15, 10, 30, 10, 500_000, tzinfo=UTC)
    assert clock.seconds() == pytest.approx(clock.now().timestamp(), abs=1e-6)


def test_last_answer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 50.0)
    clock = ServerClock()
    for hour in (10, 9):
        clock.answered(datetime(2026, 1, 15, hour, tzinfo=UTC), clock.asks())
        assert clock.now().hour == hour
        assert clock.seconds() == clock.now().timestamp()


def test_time_is_unknown_before_the_first_answer() -> None:
    with pytest.raises(AssertionError):
        ServerClock().now()
