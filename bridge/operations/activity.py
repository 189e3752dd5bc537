"""Record in ``bridge.activity`` what this process does, which also shows that it is running."""

from collections.abc import Callable
from operator import sub

import structlog
import trio

from bridge import assets
from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.identity import bridge_name
from bridge.database.pool import Database
from bridge.telemetry import metrics

log = structlog.get_logger()

#: How often a row is written.
ACTIVITY_SECONDS = 10.0
#: The first row comes soon after the start, to show that the bridge is running.
FIRST_SECONDS = 1.0
#: How long a stopping bridge waits until its last row is written.
LAST_ROW_SECONDS = 1.0


class Activity:
    """Writes the activity of this process.

    Args:
        clients: returns the number of connected WebSocket clients.
        in_flight: returns the number of deliveries leased by this process.
    """

    def __init__(
        self,
        database: Database,
        *,
        clients: Callable[[], int],
        in_flight: Callable[[], int],
    ) -> None:
        self._database = database
        self._clients = clients
        self._in_flight = in_flight
        # The totals of the last written row, and its time. A failed row is part of the next one.
        self._written = metrics.totals()
        self._written_at = trio.current_time()
        self._fails = False
        self._stopping = trio.Event()
        self._stopped = trio.Event()

    async def run(self) -> None:
        """Write rows until :meth:`stop` is called. A lost database only delays them."""
        pause, is_last = FIRST_SECONDS, False
        while not is_last:
            with trio.move_on_after(pause):
                await self._stopping.wait()
            # Asked only once, because stop() may be called while a row is being written.
            is_last = self._stopping.is_set()
            await self._write(is_last=is_last)
            pause = ACTIVITY_SECONDS
        self._stopped.set()

    async def stop(self) -> None:
        """Write the last row, and wait briefly for that."""
        self._stopping.set()
        with trio.move_on_after(LAST_ROW_SECONDS):
            await self._stopped.wait()

    async def _write(self, *, is_last: bool) -> None:
        now, counted, before = trio.current_time(), metrics.totals(), self._written
        try:
            await self._database.fetch(
                "note_activity",
                bridge_name(),
                assets.version(),
                max(now - self._written_at, 0.001),
                is_last,
                0 if is_last else self._clients(),
                0 if is_last else self._in_flight(),
                counted.clients_dropped - before.clients_dropped,
                counted.events_drained - before.events_drained,
                counted.events_streamed - before.events_streamed,
                counted.delivered - before.delivered,
                counted.retried - before.retried,
                counted.failed - before.failed,
                _since(before.commit_to_client, counted.commit_to_client),
                _since(before.commit_to_acknowledged, counted.commit_to_acknowledged),
            )
        except (DatabaseUnavailable, DatabaseError) as error:
            if not self._fails:
                log.warning("activity_write_failed", reason=str(error))
            self._fails = True
        else:
            self._fails = False
            self._written, self._written_at = counted, now


def _since(before: tuple[int, ...], counted: tuple[int, ...]) -> list[int] | None:
    """Return the counts added to a histogram, or None if it is unchanged."""
    added = list(map(sub, counted, before))
    return added if any(added) else None
