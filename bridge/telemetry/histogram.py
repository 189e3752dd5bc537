"""How long things took, counted in fixed buckets: those of several processes and times add up."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Final

#: Upper bounds of the buckets in seconds, inclusive; one more bucket is for what took longer.
#: ``bridge.activity`` keeps counts by them: other bounds need a migration that empties it.
BOUNDS: Final = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0),
)
BUCKETS: Final = len(BOUNDS) + 1
#: From so many on, it is faster to sort them and look for the bounds than the other way round.
_MANY = 32


class Histogram:
    """Durations that were observed.

    Attributes:
        counts: how many there were in each bucket.
        sum_seconds: of all of them.
    """

    __slots__ = ("counts", "sum_seconds")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration. Less than nothing, as two clocks may have it, is nothing."""
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum_seconds += seconds

    def observe_all(self, durations: Iterable[float]) -> None:
        """Count many, which takes much less time than one after the other."""
        ordered = sorted(durations)
        if len(ordered) < _MANY:
            for seconds in ordered:
                self.observe(seconds)
            return
        if ordered[0] < 0:
            ordered = [max(seconds, 0.0) for seconds in ordered]
        self.sum_seconds += sum(ordered)
        passed = 0
        for bucket, bound in enumerate(BOUNDS):
            through = bisect_right(ordered, bound, passed)
            self.counts[bucket] += through - passed
            passed = through
            if passed == len(ordered):
                return
        self.counts[-1] += len(ordered) - passed


def quantile(share: float, counts: Sequence[int]) -> float | None:
    """Return how many seconds this share of what was counted took at most, as Prometheus does.

    Within a bucket it is interpolated; of what took longer than the last bound, that is all there
    is to say.

    Args:
        share: 0.5 for the median.
        counts: of each bucket; may be empty.

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


def added(several: Iterable[Sequence[int]]) -> list[int]:
    """Return the counts of several histograms together; an empty one adds nothing."""
    counts = [0] * BUCKETS
    for each in several:
        for bucket, count in enumerate(each):
            counts[bucket] += count
    return counts
