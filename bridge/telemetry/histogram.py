"""Histograms of durations with fixed buckets, so that their counts can be added up."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Final

#: Inclusive upper bounds of the buckets, in seconds. One more bucket counts longer durations.
#: ``bridge.activity`` stores counts per bucket: a change needs a migration that empties it.
BOUNDS: Final = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0),
)
BUCKETS: Final = len(BOUNDS) + 1
#: For this many durations or more, finding each bound in the sorted durations is faster.
_MANY = 32


class Histogram:
    """Counts durations.

    Attributes:
        counts: the number of durations in each bucket.
        sum_seconds: the sum of all durations.
    """

    __slots__ = ("counts", "sum_seconds")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration. Negative ones, from clocks that differ, count as 0."""
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum_seconds += seconds

    def observe_all(self, durations: Iterable[float]) -> None:
        """Count many durations, much faster than one by one."""
        ordered = sorted(durations)
        if len(ordered) < _MANY:
            for seconds in ordered:
                self.observe(seconds)
            return
        if ordered[0] < 0:
            ordered = [max(seconds, 0.0) for seconds in ordered]
        self.sum_seconds += sum(ordered)
        counted = 0
        for bucket, bound in enumerate(BOUNDS):
            through = bisect_right(ordered, bound, counted)
            self.counts[bucket] += through - counted
            counted = through
            if counted == len(ordered):
                return
        self.counts[-1] += len(ordered) - counted


def quantile(share: float, counts: Sequence[int]) -> float | None:
    """Return a quantile in seconds, estimated like Prometheus' ``histogram_quantile``.

    Values are interpolated within a bucket. Above the last bound, the last bound is returned.

    Args:
        share: 0.5 for the median.
        counts: durations per bucket; may be empty.

    Returns:
        None if nothing was counted.
    """
    total = sum(counts)
    if not total:
        return None
    rank = share * total
    below = 0
    for bucket, bound in enumerate(BOUNDS):
        within = counts[bucket]
        if within and below + within >= rank:
            lower = BOUNDS[bucket - 1] if bucket else 0.0
            return lower + (bound - lower) * (rank - below) / within
        below += within
    return BOUNDS[-1]


def add_counts(several: Iterable[Sequence[int]]) -> list[int]:
    """Add the counts of several histograms, which may be empty."""
    counts = [0] * BUCKETS
    for each in several:
        for bucket, count in enumerate(each):
            counts[bucket] += count
    return counts
