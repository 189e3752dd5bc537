"""Regular maintenance: creates partitions, drops expired data and seals secrets."""

from collections.abc import Mapping

import structlog
import trio

from bridge.access.vault import SecretError, Vault
from bridge.database import limits
from bridge.database.errors import DatabaseError, is_of_values
from bridge.database.pool import Connection, Database
from bridge.relay.clock_watch import ClockWatch

log = structlog.get_logger()

#: Partitions exist for this many days, from yesterday on.
PARTITION_DAYS = 9
UPKEEP_SECONDS = 600.0


async def create_partitions(database: Database) -> int:
    """Create missing partitions and return their number."""
    [row] = await database.fetch("create_partitions", PARTITION_DAYS)
    created: int = row["created"]
    if created:
        log.info("partitions_created", count=created)
    return created


class Upkeep:
    """Runs the maintenance at intervals. Any number of bridges may run it at once.

    Args:
        keep_days: retention of each partitioned log in days.
        vault: seals the secrets of webhooks.
        keep_audit_days: retention of the audit log in days.
        keep_dead_letters_days: retention of dead letters in days.
    """

    def __init__(
        self,
        database: Database,
        keep_days: Mapping[str, int],
        vault: Vault,
        *,
        keep_audit_days: int = 365,
        keep_dead_letters_days: int = 30,
    ) -> None:
        self._database = database
        self._keep_days = keep_days
        self._vault = vault
        self._keep_audit_days = keep_audit_days
        #: Run it beside upkeep.
        self.clock_watch = ClockWatch(database)
        self._keep_dead_letters_days = keep_dead_letters_days
        # Webhook ids and secrets that could not be decrypted last time, which was logged.
        self._unopened: set[tuple[int, str]] = set()

    async def run(self) -> None:
        """Run forever.

        Raises:
            DatabaseUnavailable: the database cannot be reached. Run again.
        """
        while True:
            await create_partitions(self._database)
            if await self.clock_watch.look():
                await self.delete_expired()
            await self.count_successes()
            await self.seal_secrets()
            await trio.sleep(UPKEEP_SECONDS)

    async def delete_expired(self) -> None:
        """Delete everything that has passed its retention."""
        await self.drop_expired()
        await self._delete_all("delete_old_notes")
        await self._delete_all("forget_audit", self._keep_audit_days)
        await self._delete_all("forget_dead_letters", self._keep_dead_letters_days)
        await self._delete_all("forget_activity")
        await self.forget_expired_secrets()

    async def count_successes(self) -> None:
        """Count the successes that no courier has counted."""
        try:
            await self._database.fetch("count_successes", None)
        except DatabaseError as error:
            if not is_of_values(error):
                raise
            log.error("counts_rejected", batches=None, reason=str(error))

    async def forget_expired_secrets(self) -> None:
        """Delete the previous secrets of webhooks whose rotation has ended."""
        rows = await self._database.fetch("forget_expired_secrets")
        if rows:
            log.info("expired_secrets_deleted", webhook_ids=[row["id"] for row in rows])

    async def seal_secrets(self) -> None:
        """Seal secrets with the vault's first key if they are in the clear or sealed with another.

        A secret that cannot be decrypted is left unchanged, and logged once.
        """
        sealed, unopened = 0, set()
        for row in await self._database.fetch("stored_secrets"):
            webhook_id = row["webhook_id"]
            for stored in filter(None, (row["secret"], row["previous_secret"])):
                await trio.lowlevel.checkpoint()  # each takes some CPU time
                try:
                    wanted = self._vault.reseal(stored)
                except SecretError as error:
                    unopened.add((webhook_id, stored))
                    if (webhook_id, stored) not in self._unopened:
                        log.error(
                            "secret_decryption_failed", webhook_id=webhook_id, reason=str(error)
                        )
                    continue
                if wanted != stored:
                    sealed += len(
                        await self._database.fetch("seal_secret", webhook_id, stored, wanted)
                    )
        self._unopened = unopened
        if sealed:
            log.info("secrets_encrypted", count=sealed)

    async def _delete_all(self, name: str, *values: object) -> None:
        """Run a query that deletes a limited number of rows until none is left."""
        deleted = True
        while deleted:
            [row] = await self._database.fetch(name, *values)
            deleted = row["deleted"] > 0

    async def drop_expired(self) -> None:
        """Drop the expired partitions of all logs.

        Each is counted first, which takes long if the day was busy.
        """
        async with self._database.connect(limits.UPKEEP, limits.UPKEEP_SECONDS) as connection:
            for parent, days in self._keep_days.items():
                dropped = True
                while dropped:
                    dropped = await _drop_partition(connection, parent, days)


async def _drop_partition(connection: Connection, parent: str, days: int) -> bool:
    """Drop the oldest partition if it has expired; return whether there was one."""
    try:
        [row] = await connection.fetch("drop_expired_partition", parent, days)
    except DatabaseError as error:
        # Usually a reader holds a lock. The next run tries again.
        log.warning("partition_drop_postponed", parent=parent, reason=str(error))
        return False
    if row["dropped"] is None:
        return False
    log.info("partition_dropped", partition=row["dropped"])
    return True
