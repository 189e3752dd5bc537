"""Remembers which outbox ids the drainer still has to look for.

The outbox is a queue that is emptied from its low end. A scan from the start would walk over every
deleted row that vacuum has not removed, and a report that runs for an hour holds vacuum back for an
hour. So the drainer remembers the highest id it has seen, the mark, and asks for ids above it. It
also asks for the few ids below the mark that it has not seen: a transaction takes its ids early and
may commit late or roll back.

A missing id belongs to a transaction that had its transaction id before the gap was noticed. Once
all transactions in flight at that moment have ended, the missing id was rolled back and is
forgotten.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

#: Gaps with more ids than this together are scanned once a second, not in every drain.
WIDE_GAPS_IDS = 1000
#: More gaps than this are joined into one, so that they never cost more than a full scan.
MOST_GAPS = 1000


@dataclass(frozen=True, slots=True)
class Gap:
    """Ids from ``low`` to ``high`` inclusive that have not been seen.

    ``horizon`` is greater than every transaction id given out when they were first missed; None
    until they have been searched once.
    """

    low: int
    high: int
    horizon: int | None


class Watermark:
    """The mark and the gaps below it, at most ``MOST_GAPS``."""

    def __init__(self, last_id: int) -> None:
        """Start with one gap up to ``last_id``, the last id that the outbox gave out."""
        self.mark = last_id
        self._gaps = [Gap(1, last_id, None)] if last_id > 0 else []

    @property
    def wide(self) -> bool:
        """Whether the gaps are too wide to scan in every drain."""
        return sum(gap.high - gap.low + 1 for gap in self._gaps) > WIDE_GAPS_IDS

    @property
    def gaps(self) -> list[Gap]:
        return list(self._gaps)

    def record(
        self, taken: Sequence[int], *, xmin: int, next_xid: int, complete: bool, gaps_scanned: bool
    ) -> None:
        """Update the mark and the gaps from the result of one drain.

        Args:
            taken: the ids it took, in order.
            xmin: oldest transaction in flight in the drain's snapshot.
            next_xid: greater than every transaction id given out before the snapshot. The
                snapshot's xmax is not: ids above the newest ended one may be in use.
            complete: whether it left nothing; if not, it searched up to the last id taken.
            gaps_scanned: whether it also scanned the gaps.
        """
        if gaps_scanned and self._gaps:
            scanned_to = None if complete else taken[-1]
            self._gaps = [
                rest
                for gap in self._gaps
                for rest in _after_scan(gap, taken, xmin, next_xid, scanned_to)
            ]
        for taken_id in taken[bisect_right(taken, self.mark) :]:
            if taken_id > self.mark + 1:
                self._gaps.append(Gap(self.mark + 1, taken_id - 1, next_xid))
            self.mark = taken_id
        if len(self._gaps) > MOST_GAPS:
            self._gaps = [Gap(self._gaps[0].low, self._gaps[-1].high, next_xid)]


def _after_scan(
    gap: Gap, taken: Sequence[int], xmin: int, next_xid: int, scanned_to: int | None
) -> list[Gap]:
    """Return the rest of a gap after a drain that scanned it up to ``scanned_to``."""
    if scanned_to is not None and scanned_to < gap.low:
        return [gap]
    if scanned_to is not None and scanned_to < gap.high:
        # The part above scanned_to may still contain rows.
        seen = replace(gap, high=scanned_to)
        unseen = replace(gap, low=scanned_to + 1)
        return [*_after_scan(seen, taken, xmin, next_xid, None), unseen]
    if gap.horizon is not None and gap.horizon <= xmin:
        return []
    horizon = next_xid if gap.horizon is None else gap.horizon
    found = taken[bisect_left(taken, gap.low) : bisect_right(taken, gap.high)]
    edges = [gap.low - 1, *found, gap.high + 1]
    return [
        Gap(before + 1, after - 1, horizon)
        for before, after in pairwise(edges)
        if after - before > 1
    ]
