"""Creates the deliveries that the drain defers, so that no number of webhooks delays the stream.

A drain creates a limited number of deliveries and leaves the others to this module, which creates
them in batches, on a connection of the pool. Deliveries to a webhook are created in the order of
events. So once deliveries to a webhook are deferred, later drains also defer those to it and to all
newer webhooks, until none are left.
"""

from collections.abc import Callable
from math import inf

import structlog
import trio

from bridge.database.errors import DatabaseError, StatementTimeoutError, is_of_values
from bridge.database.pool import Database
from bridge.tasks import WakeUp, linger

log = structlog.get_logger()

#: About how many deliveries to create in one statement, and for about how long.
BATCH, BATCH_MILLISECONDS = 2000, 500
#: Share of the time for which the server is kept busy. The drain and the couriers also need it.
BUSY_SHARE = 0.5
#: After a timeout, this many statements evaluate one filter each: more than an event can have.
CAREFUL_STATEMENTS = 10_000
#: After an error, this many statements queue one event each, and set aside what the queue rejects.
ISOLATING_STATEMENTS = 100
#: How long to wait while another session is at work: a bridge that has just ceased to drain.
BUSY_SECONDS = 0.5


class Deferral:
    """Queues deferred deliveries while this bridge drains.

    Args:
        queued: called when deliveries were created.
    """

    def __init__(self, database: Database, queued: Callable[[], None]) -> None:
        self._database = database
        self._queued = queued
        #: Deliveries to webhooks from this id on are deferred; None: no deliveries are.
        self.from_webhook_id: int | None = None
        #: Number of calls of ``begin`` and ``add``.
        self._additions = 0
        self._added = WakeUp()
        #: How many further statements evaluate only one filter, to find one that takes too long.
        self._careful = 0

    def begin(self, from_webhook_id: int | None) -> None:
        """Take over when this bridge begins to drain, or stop when it no longer drains.

        Args:
            from_webhook_id: the lowest webhook for which deliveries are deferred; None if none are.
        """
        self.from_webhook_id = from_webhook_id
        self._additions += 1
        self._added.signal()

    def add(self, from_webhook_id: int) -> None:
        """Take note that a drain deferred deliveries to webhooks from this id on."""
        if self.from_webhook_id is not None:
            from_webhook_id = min(from_webhook_id, self.from_webhook_id)
        self.begin(from_webhook_id)

    async def run(self) -> None:
        """Queue deferred deliveries until cancelled.

        Raises:
            DatabaseUnavailable, DatabaseError: a statement failed. Run again: none are lost.
        """
        while True:
            while self.from_webhook_id is not None:
                started = trio.current_time()
                await self._queue()
                await linger(started, BUSY_SHARE)
            await self._added.wait(inf)

    async def _queue(self) -> None:
        additions = self._additions
        amount = (1, 0) if self._careful else (BATCH, BATCH_MILLISECONDS)
        try:
            [row] = await self._database.fetch("queue_deferred", *amount)
        except StatementTimeoutError:
            if self._careful:
                await self._disable_slow_filter()
            self._careful = 0 if self._careful else CAREFUL_STATEMENTS
            return
        except DatabaseError as error:
            if self._careful or not is_of_values(error):
                raise
            # Some delivery is at fault; careful statements set it aside.
            log.warning("deferred_rejected", reason=str(error))
            self._careful = ISOLATING_STATEMENTS
            return
        self._careful = max(0, self._careful - 1)
        if row["deliveries"] is None:
            await trio.sleep(BUSY_SECONDS)
            return
        if row["deliveries"]:
            self._queued()
        if row["is_empty"] and additions == self._additions:
            self.from_webhook_id = None

    async def _disable_slow_filter(self) -> None:
        """Disable the webhook whose filter is next, and took too long on its own."""
        for row in await self._database.fetch("disable_deferred_webhook"):
            log.error("slow_filter_disabled", webhook_id=row["id"], reason=row["disabled_reason"])
