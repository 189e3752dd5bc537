"""Finds couriers that have died, so that others need not wait until their leases expire.

All sessions of a living process hold an advisory lock (``Database.key``). A process without a
session has died, unless it is about to connect again.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog
import trio

from bridge.database.identity import bridge_name, has_ended
from bridge.database.pool import Database, Row
from bridge.database.restart import LONGEST_PAUSE_SECONDS
from bridge.database.sightings import Sightings

log = structlog.get_logger()

#: How often to look, and how often while a process has no session.
LOOK_SECONDS, CLOSE_LOOK_SECONDS = 1.0, 0.25
#: A process without a session for this long has died. One that lost its sessions, but not the
#: server, is back within a fraction of a second.
GRACE_SECONDS = 1.5
#: The same if the process no longer exists on this host, as after a crash and a restart. Not at
#: once: a container with this host's name may have process ids of its own.
ENDED_GRACE_SECONDS = 0.25
#: After the server was away, no process counts as dead for this long: the others may be waiting
#: until they connect again.
RETURN_SECONDS = LONGEST_PAUSE_SECONDS + 2.0
#: When to forget a process that has died: its leases have expired.
FORGET_SECONDS = 120.0


class Owners:
    """The owners of leases.

    Args:
        died: called when a process has died.
    """

    def __init__(self, database: Database, died: Callable[[], None]) -> None:
        self._database = database
        self._died = died
        #: The processes that have died and may have left leases.
        self.dead: Sequence[int] = ()
        # Processes without a session.
        self._missing: Sightings[int] = Sightings()
        self._server_started_at: datetime | None = None
        self._patient_until: datetime | None = None

    async def register(self) -> None:
        """Let others know of this process. Call it before the first claim."""
        await self._database.fetch("note_courier", self._database.key, bridge_name())

    async def forget(self, keys: Sequence[int]) -> None:
        """Forget processes that have no leases."""
        await self._database.fetch("forget_couriers", keys)

    async def run(self) -> None:
        """Look until cancelled.

        Raises:
            DatabaseUnavailable, DatabaseError: a look failed. Run again.
        """
        while True:
            may_have_died = await self.look()
            await trio.sleep(CLOSE_LOOK_SECONDS if may_have_died else LOOK_SECONDS)

    async def look(self) -> bool:
        """Look for dead processes. Return whether another may turn out to be dead soon."""
        rows = {
            row["id"]: row for row in await self._database.fetch("couriers", self._database.key)
        }
        own = rows.get(self._database.key)
        if own is None:  # after a restore, or if this process was away for minutes
            await self.register()
            # Look again soon: this look did not record the other processes.
            return True
        missing = self._missing.record(
            (key for key, row in rows.items() if not row["is_alive"]), own["now"]
        )
        self._be_patient(own)
        if self._patient_until is not None and own["now"] < self._patient_until:
            self.dead = ()
            return bool(missing)
        dead = [key for key, seconds in missing.items() if seconds >= _grace(rows[key]["bridge"])]
        new = set(dead) - set(self.dead)
        self.dead = dead
        for key in new:
            log.info("courier_died", bridge=rows[key]["bridge"])
        if new:
            self._died()
        if expired := [key for key in dead if missing[key] >= FORGET_SECONDS]:
            await self.forget(expired)
        return len(dead) < len(missing)

    def _be_patient(self, own: Row) -> None:
        """Wait longer if the server was restarted, replaced or out of reach."""
        started_at, before = own["server_started_at"], self._server_started_at
        self._server_started_at = started_at
        pause = timedelta(seconds=RETURN_SECONDS)
        if before is None:
            self._patient_until = started_at + pause
        elif started_at != before or self._missing.interrupted:
            self._patient_until = own["now"] + pause


def _grace(bridge: str) -> float:
    """Return for how many seconds a process may be without a session before it counts as dead."""
    return ENDED_GRACE_SECONDS if has_ended(bridge) else GRACE_SECONDS
