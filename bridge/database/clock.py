"""The database's clock, estimated locally. Every stored time uses that clock."""

import time
from datetime import UTC, datetime


class ServerClock:
    """Estimates the database's time from its last answer.

    The estimate runs ahead by at most the time the statement took to reach the server: it is
    anchored to when the question was sent, because the answer may be processed late.
    """

    def __init__(self) -> None:
        # Offset from this process's monotonic clock to the database's clock; None before an answer.
        self._ahead_seconds: float | None = None

    @staticmethod
    def asks() -> float:
        """Return the moment at which the database is asked, for :meth:`answered`."""
        return time.monotonic()

    def answered(self, now: datetime, asked: float) -> None:
        """Record the database's ``now()``, the time at which the statement arrived."""
        self._ahead_seconds = now.timestamp() - asked

    def now(self) -> datetime:
        """Return the estimated time; :meth:`answered` must have been called before."""
        return datetime.fromtimestamp(self.seconds(), UTC)

    def seconds(self) -> float:
        """Return the same in seconds since 1970, at a fraction of the cost."""
        assert self._ahead_seconds is not None  # noqa: S101 - callers ask the database first
        return self._ahead_seconds + time.monotonic()
