"""The database's clock, as far as it is known here: every time that is kept is by that one."""

from __future__ import annotations

import time
from datetime import datetime, timedelta


class ServerClock:
    """Tells the database's time from what it said last.

    It is ahead by at most what the statement took to get there: it is set by when the database was
    asked, and not by when the answer came, which the work in between makes late.
    """

    def __init__(self) -> None:
        self._told: tuple[datetime, float] | None = None
        # Seconds from when this process' clock began to when the database's did.
        self._ahead_seconds = 0.0

    @staticmethod
    def asks() -> float:
        """Return a note of when the database is asked, for :meth:`answered`."""
        return time.monotonic()

    def answered(self, now: datetime, asked: float) -> None:
        """Take what it said: ``now()``, which is when a statement arrives."""
        self._told = now, asked
        self._ahead_seconds = now.timestamp() - asked

    def now(self) -> datetime:
        """Return the time; the database must have said it once."""
        assert self._told is not None  # noqa: S101 - nothing comes of a database that was not asked
        told, asked = self._told
        return told + timedelta(seconds=time.monotonic() - asked)

    def seconds(self) -> float:
        """Return the same as seconds since 1970, which takes a tenth of the time."""
        return self._ahead_seconds + time.monotonic()
