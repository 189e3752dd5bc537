"""Continue redeliveries, of which the database itself moves only the first batch to the queue."""

import structlog
import trio

from bridge.database.pool import Database

log = structlog.get_logger()

#: Pause if no batch is due, and the shortest pause after a batch.
IDLE_SECONDS, BUSY_SECONDS = 1.0, 0.1


async def continue_redeliveries(database: Database) -> None:
    """Move batches of deliveries back to the queue, forever.

    Any number of bridges may do so at once. A batch is followed by a pause that is at least as
    long, so that settling never waits for two batches.

    Raises:
        DatabaseUnavailable: the database cannot be reached. Run again.
    """
    while True:
        started = trio.current_time()
        pause = IDLE_SECONDS
        for row in await database.fetch("continue_redelivery"):
            pause = max(BUSY_SECONDS, trio.current_time() - started)
            if row["state"] == "finished":
                log.info(
                    "redelivery_finished",
                    webhook_id=row["webhook_id"],
                    matched=row["matched"],
                    requeued=row["requeued"],
                )
        await trio.sleep(pause)
