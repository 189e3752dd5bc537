"""Rate limits per key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.access.throttle import Throttle


def test_burst_passes_then_one_per_interval() -> None:
    throttle = Throttle(2, 3)
    assert [throttle.take("a", 10.0) for _ in range(4)] == [0, 0, 0, pytest.approx(0.5)]
    assert throttle.take("a", 10.4) == pytest.approx(0.1)
    assert throttle.take("a", 10.5) == 0
    assert throttle.take("a", 10.5) == pytest.approx(0.5)
    assert [throttle.take("a", 100.0) for _ in range(4)] == [0, 0, 0, pytest.approx(0.5)]


def test_keys_are_independent() -> None:
    throttle = Throttle(1, 1)
    assert throttle.take("a", 0.0) == 0
    assert throttle.take("b", 0.0) == 0
    assert throttle.take("a", 0.0) == pytest.approx(1)


def test_asking_for_the_wait_uses_no_allowance() -> None:
    throttle = Throttle(1, 2)
    assert [throttle.wait("a", 0.0) for _ in range(50)] == [0] * 50
    assert [throttle.take("a", 0.0) for _ in range(3)] == [0, 0, pytest.approx(1)]
    assert throttle.wait("a", 0.25) == pytest.approx(0.75)
    assert throttle.wait("a", 1.0) == 0


def test_key_idle_longest_is_forgotten() -> None:
    throttle = Throttle(1, 1, most_keys=2)
    for key in "abac":
        throttle.take(key, 0.0)
        throttle.take("a", 0.0)
    assert throttle.take("a", 0.0) > 0
    assert throttle.take("c", 0.0) > 0
    assert throttle.take("b", 0.0) == 0  # forgotten


@given(
    st.floats(0.01, 1000),
    st.integers(1, 50),
    st.lists(st.floats(0, 10), min_size=1, max_size=200),
)
def test_no_pace_exceeds_burst_and_rate(per_second: float, burst: int, pauses: list[float]) -> None:
    throttle, now, passed = Throttle(per_second, burst), 0.0, 0
    for pause in pauses:
        now += pause
        passed += throttle.take("a", now) == 0
    assert passed <= burst + now * per_second + 1e-3
