"""Tell for how long something has looked the same, by the server's clock."""

from collections.abc import Hashable, Iterable
from datetime import datetime
from typing import Generic, TypeVar

Seen = TypeVar("Seen", bound=Hashable)

#: Between looks that are further apart, this process or the server may have been frozen, or the
#: server's clock was set: what happened in between is unknown.
GAP_SECONDS = 3.0


class Sightings(Generic[Seen]):
    """Records for how long things have been seen in an unbroken series of looks."""

    def __init__(self) -> None:
        self._since: dict[Seen, datetime] = {}
        self._looked_at: datetime | None = None
        #: Whether the last look came too late, and began a new series.
        self.interrupted = False

    def record(self, seen: Iterable[Seen], now: datetime) -> dict[Seen, float]:
        """Add a look; return for how many seconds each thing that it shows has been seen.

        Args:
            now: the server's time when it was asked.
        """
        last, self._looked_at = self._looked_at, now
        self.interrupted = last is not None and not 0 <= (now - last).total_seconds() <= GAP_SECONDS
        since = {} if self.interrupted else self._since
        self._since = {each: since.get(each, now) for each in seen}
        return {each: (now - first).total_seconds() for each, first in self._since.items()}
