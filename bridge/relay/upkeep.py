"""Keeps the logs in shape: partitions made ahead, expired ones dropped, old notes deleted."""

from collections.abc import Mapping

import structlog
import trio

from bridge.db import Database, DatabaseError

log = structlog.get_logger()

#: Partitions are made for this many days, yesterday included.
PARTITION_DAYS = 9
UPKEEP_SECONDS = 600.0


async def create_partitions(database: Database) -> int:
    """Make the partitions that are missing, and return how many were."""
    [row] = await database.fetch("create_partitions", PARTITION_DAYS)
    created: int = row["created"]
    if created:
        log.info("partitions_created", count=created)
    return created


class Upkeep:
    """Does the upkeep now and then.

    Args:
        keep_days: for each partitioned log, how many days of it are kept.
    """

    def __init__(self, database: Database, keep_days: Mapping[str, int]) -> None:
        self._database = database
        self._keep_days = keep_days

    async def run(self) -> None:
        """Keep up for ever.

        Raises:
            DatabaseUnavailable: the database is away. Run again.
        """
        while True:
            await create_partitions(self._database)
            for parent, days in self._keep_days.items():
                await self._drop_expired(parent, days)
            await self._database.fetch("delete_old_notes")
            await trio.sleep(UPKEEP_SECONDS)

    async def _drop_expired(self, parent: str, days: int) -> None:
        while True:
            try:
                row = await self._database.fetch_one("drop_expired_partition", parent, days)
            except DatabaseError as error:
                # Somebody reads it, most likely; there is no hurry.
                log.warning("partition_drop_postponed", parent=parent, reason=str(error))
                return
            if row is None or row["dropped"] is None:
                return
            log.info("partition_dropped", partition=row["dropped"])
