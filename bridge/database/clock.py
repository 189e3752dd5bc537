"""The database's clock, estimated locally. Every stored time uses that clock."""

import time
from datetime import datetime, timedelta


class ServerClock:
    """Estimates the database's time from its last answer.

    The estimate runs ahead by at most the time the statement took to reach the server: it is
    anchored to when the question was sent, because the answer may be processed late.
    """

    def __init__(self) -> None:
        self._last: tuple[datetime, float] | None = None
        # Offset from this process's monotonic clock to the database's clock, in seconds.
        self._ahead_seconds = 0.0

    @staticmethod
    def asks() -> float:
        """Return the moment at which the database is asked, for :meth:`answered`."""
        return time.monotonic()

    def answered(self, now: datetime, asked: float) -> None:
        """Record the database's ``now()``, the time at which the statement arrived."""
        self._last = now, asked
        self._ahead_seconds = now.timestamp() - asked

    def now(self) -> datetime:
        """Return the estimated time; :meth:`answered` must have been called before."""
        assert self._last is not None  # noqa: S101 - callers ask the database first
        answer, asked = self._last
        return answer + timedelta(seconds=time.monotonic() - asked)

    def seconds(self) -> float:
        """Return the same in seconds since 1970, at a tenth of the cost."""
        return self._ahead_seconds + time.monotonic()
