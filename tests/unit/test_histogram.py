"""Durations are counted in buckets, and quantiles are interpolated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.telemetry.histogram import BOUNDS, BUCKETS, Histogram, add_counts, quantile


def counts(*pairs: tuple[int, int]) -> list[int]:
    """Return counts with these buckets set and the others 0."""
    filled = [0] * BUCKETS
    for bucket, count in pairs:
        filled[bucket] = count
    return filled


def test_bounds_reach_from_a_millisecond_to_an_hour() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert (BOUNDS[0], BOUNDS[-1], len(BOUNDS), BUCKETS) == (0.001, 3600, 20, 21)


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(-0.5, 0), (0.0, 0), (0.001, 0), (0.0011, 1), (0.1, 9), (3600.0, 19), (3600.1, 20)],
)
def test_duration_is_counted_in_its_bucket(seconds: float, bucket: int) -> None:
    histogram = Histogram()
    histogram.observe(seconds)
    assert histogram.counts == counts((bucket, 1))
    assert histogram.sum_seconds == max(seconds, 0)


DURATIONS = st.one_of(st.sampled_from(BOUNDS), st.floats(-1, 1e5))


@given(st.lists(DURATIONS, max_size=100))
def test_observe_all_equals_single_observations(durations: list[float]) -> None:
    singly, together = Histogram(), Histogram()
    for seconds in durations:
        singly.observe(seconds)
    together.observe_all(durations)
    assert together.counts == singly.counts
    assert together.sum_seconds == pytest.approx(singly.sum_seconds)


@pytest.mark.parametrize(
    ("of", "p50", "p95"),
    [
        ([], None, None),
        (counts(), None, None),
        # Durations are assumed to be spread evenly over a bucket.
        (counts((0, 10)), 0.0005, 0.00095),
        (counts((9, 100)), 0.075, 0.0975),
        # The median of two equally full buckets is their common bound.
        (counts((8, 50), (9, 50)), 0.05, 0.095),
        # Durations above the last bound are reported as the last bound.
        (counts((20, 3)), 3600.0, 3600.0),
        (counts((0, 90), (20, 10)), 0.001 * 50 / 90, 3600.0),
    ],
)
def test_quantiles_are_interpolated_within_a_bucket(
    of: list[int], p50: float | None, p95: float | None
) -> None:
    assert quantile(0.5, of) == (None if p50 is None else pytest.approx(p50))
    assert quantile(0.95, of) == (None if p95 is None else pytest.approx(p95))


@given(st.lists(st.floats(0, 1e4), min_size=1), st.floats(0.01, 1))
def test_quantile_lies_in_the_bucket_of_the_exact_value(
    durations: list[float], share: float
) -> None:
    histogram = Histogram()
    histogram.observe_all(durations)
    estimate = quantile(share, histogram.counts)
    # The shortest duration that at least this share does not exceed.
    exact = next(
        each
        for place, each in enumerate(sorted(durations), start=1)
        if place >= share * len(durations)
    )
    bucket = next(b for b in range(BUCKETS) if b == len(BOUNDS) or exact <= BOUNDS[b])
    lower = BOUNDS[bucket - 1] if bucket else 0.0
    upper = BOUNDS[min(bucket, len(BOUNDS) - 1)]
    assert estimate is not None
    assert lower <= estimate <= upper * 1.000001


def test_counts_of_several_processes_add_up() -> None:
    assert add_counts([]) == counts()
    assert add_counts([counts((0, 1)), [], counts((0, 2), (20, 5))]) == counts((0, 3), (20, 5))
