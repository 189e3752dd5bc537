"""Keeps things in shape: partitions made ahead, what has expired dropped, secrets sealed."""

from collections.abc import Mapping

import structlog
import trio

from bridge.access.vault import SecretError, Vault
from bridge.database.errors import DatabaseError
from bridge.database.pool import Database

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
    """Does the upkeep now and then. Any number of bridges may do it at once.

    Args:
        keep_days: for each partitioned log, how many days of it are kept.
        vault: seals secrets of webhooks that are stored otherwise.
        keep_audit_days: how long it is kept who changed what.
    """

    def __init__(
        self,
        database: Database,
        keep_days: Mapping[str, int],
        vault: Vault,
        *,
        keep_audit_days: int = 365,
    ) -> None:
        self._database = database
        self._keep_days = keep_days
        self._vault = vault
        self._keep_audit_days = keep_audit_days
        # Webhooks and secrets that could not be opened last time, which has been logged.
        self._unopened: set[tuple[int, str]] = set()

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
            await self._database.fetch("forget_audit", self._keep_audit_days)
            await self._database.fetch("forget_activity")
            await self.forget_expired_secrets()
            await self.seal_secrets()
            await trio.sleep(UPKEEP_SECONDS)

    async def forget_expired_secrets(self) -> None:
        """Forget the old secrets of rotations whose overlap is over."""
        rows = await self._database.fetch("forget_expired_secrets")
        if rows:
            log.info("expired_secrets_forgotten", webhook_ids=[row["id"] for row in rows])

    async def seal_secrets(self) -> None:
        """Seal with the vault's first key what is stored in the clear, or sealed with another key.

        What cannot be opened is left alone, and logged when it is met first.
        """
        sealed, unopened = 0, set()
        for row in await self._database.fetch("stored_secrets"):
            webhook_id = row["webhook_id"]
            for stored in filter(None, (row["secret"], row["previous_secret"])):
                await trio.lowlevel.checkpoint()  # each takes some CPU, and there may be many
                try:
                    wanted = self._vault.reseal(stored)
                except SecretError as error:
                    unopened.add((webhook_id, stored))
                    if (webhook_id, stored) not in self._unopened:
                        log.error("secret_unopened", webhook_id=webhook_id, reason=str(error))
                    continue
                if wanted != stored:
                    sealed += len(
                        await self._database.fetch("seal_secret", webhook_id, stored, wanted)
                    )
        self._unopened = unopened
        if sealed:
            log.info("secrets_sealed", count=sealed)

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
