"""Notices changes of the database's clock, and moves what waits or expires by that clock."""

import structlog
import trio

from bridge.database import limits
from bridge.database.pool import Database

log = structlog.get_logger()

#: Pause between two looks at the clock. A step back is measured that exactly.
LOOK_SECONDS = 5.0


class ClockWatch:
    """Compares the database's clock with the time that a bridge last saw, and with its own clock.

    Any number of bridges may do so at once: the first that notices a change handles it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looked_at: float | None = None

    async def run(self) -> None:
        """Look forever.

        Raises:
            DatabaseUnavailable: the database cannot be reached. Run again.
        """
        while True:
            await self.look()
            await trio.sleep(LOOK_SECONDS)

    async def look(self) -> bool:
        """Handle a change of the clock; return whether what has expired can be deleted.

        It cannot for a day after a step forward, or after a time without a bridge, which looks the
        same: if the new time is wrong, it can be corrected before whole logs are dropped.
        """
        now = trio.current_time()
        elapsed = None if self._looked_at is None else now - self._looked_at
        [row] = await self._database.fetch("watch_clock", elapsed)
        self._looked_at = now
        step_seconds, may_delete = row["step_seconds"], row["may_delete"]
        if step_seconds < 0:
            # Long queues take long.
            async with self._database.connect(limits.UPKEEP, limits.UPKEEP_SECONDS) as connection:
                [row] = await connection.fetch("shift_times")
            step_seconds = row["step_seconds"]
        if step_seconds:
            log.error("database_clock_changed", step_seconds=round(step_seconds))
        return bool(may_delete)
