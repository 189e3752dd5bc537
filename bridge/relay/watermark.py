"""Which outbox ids the drainer has still to look for.

The outbox is a queue that is emptied from its low end. Reading it from the start would walk over
every deleted row that vacuum could not remove yet, and a report that runs for an hour holds vacuum
back for an hour. So the drainer remembers the highest id it has seen, the mark, and asks for what
is above it; and, beside it, for the few ids below that it has not seen: a transaction takes its ids
early and commits late, or rolls back.

An id that is missing belongs to a transaction that had its xid before the missing was noticed.
Once every transaction that was in flight then has ended, it was rolled back and is forgotten.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

#: Gaps that hold more ids than this in all are looked through once a poll, not with every drain.
WIDE_GAPS_IDS = 1000
#: More gaps than this are joined into one, so that they never cost more than a scan does.
MOST_GAPS = 1000


@dataclass(frozen=True, slots=True)
class Gap:
    """Ids ``low`` to ``high``, both included, that have not been seen.

    ``horizon`` is past every transaction id that had been given out when they were first missed;
    None until they have been looked for once.
    """

    low: int
    high: int
    horizon: int | None


class Watermark:
    """The mark and the gaps below it. Holds at most ``MOST_GAPS`` gaps."""

    def __init__(self, last_id: int) -> None:
        """Start with every id up to ``last_id``, the outbox's sequence as it stood, as one gap."""
        self.mark = last_id
        self._gaps = [Gap(1, last_id, None)] if last_id > 0 else []

    @property
    def wide(self) -> bool:
        """Whether looking through the gaps is too much to do with every drain."""
        return sum(gap.high - gap.low + 1 for gap in self._gaps) > WIDE_GAPS_IDS

    @property
    def gaps(self) -> list[Gap]:
        return list(self._gaps)

    def record(
        self, taken: Sequence[int], *, xmin: int, next_xid: int, complete: bool, gaps_scanned: bool
    ) -> None:
        """Note what one drain found.

        Args:
            taken: the ids it took, in order.
            xmin: oldest transaction that was in flight in the drain's snapshot.
            next_xid: a transaction id that nobody had when that snapshot was taken. Not its xmax:
                an id past the last that has ended may have been given out long ago.
            complete: it found all there was; if not, it looked no further than the last id taken.
            gaps_scanned: it looked through the gaps, too.
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
    """Return what remains of a gap after a drain that looked through it up to ``scanned_to``."""
    if scanned_to is not None and scanned_to < gap.low:
        return [gap]
    if scanned_to is not None and scanned_to < gap.high:
        # The rest was not looked at: whether its rows are there is not known.
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
