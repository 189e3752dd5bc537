"""Lets a follower end the session of a leader that is frozen or cut off, so that it can lead.

The leadership is a session's. The session of a bridge that is frozen (SIGSTOP, a paused machine) or
cut off by the network lasts, and nothing is drained. ``pg_stat_activity`` shows it without extra
writes: a leader runs a statement every half second, whatever else it waits for. Ending the session
also fences the leader: when it thaws it finds its connection closed, and follows.
"""

import structlog
import trio

from bridge.database.limits import DRAIN_SECONDS
from bridge.database.pool import Connection, Row
from bridge.database.sightings import GAP_SECONDS, Sightings

log = structlog.get_logger()

#: How often the leader runs a statement, and a follower looks at its session.
BEAT_SECONDS, LOOK_SECONDS = 0.5, 1.0
#: A leader whose session is idle for this long is frozen. An event loop that is busy for two
#: seconds leaves it idle for two and a half.
FROZEN_SECONDS = 3.0
#: For how long a follower must have seen it so: it may just have been frozen with the leader.
WATCHED_SECONDS = 1.5


class Takeover:
    """Watches the leader for a follower."""

    def __init__(self) -> None:
        self._sightings: Sightings[object] = Sightings()
        self._next_look = -float("inf")
        #: The leader that this bridge cannot end, which was logged.
        self._out_of_reach: int | None = None

    async def end_frozen_leader(self, connection: Connection) -> bool:
        """Look at the leader if it is time; end its session if it is frozen. Return if it ended."""
        if trio.current_time() < self._next_look:
            return False
        self._next_look = trio.current_time() + LOOK_SECONDS
        for row in await connection.fetch("leader"):
            if row["obstacle"] is not None:
                self._report_obstacle(row)
            elif row["since"] is not None and self._is_frozen(row):
                return await self._fence(connection, row)
        return False

    def _is_frozen(self, row: Row) -> bool:
        """Return whether the leader has not moved for too long, in the last looks as well."""
        unmoved = row["pid"], row["since"]
        watched_seconds = self._sightings.record([unmoved], row["now"])[unmoved]
        # PostgreSQL ends its statements, unless it waits for the leader to read their results.
        limit = FROZEN_SECONDS + (DRAIN_SECONDS if row["is_active"] else 0)
        return _seconds(row) >= limit and watched_seconds >= WATCHED_SECONDS

    async def _fence(self, connection: Connection, row: Row) -> bool:
        fenced = await connection.fetch(
            "fence_leader", row["pid"], row["since"], row["now"], GAP_SECONDS
        )
        if not any(each["is_ended"] for each in fenced):
            return False
        seconds = round(_seconds(row), 1)
        log.warning("leader_fenced", bridge=row["bridge"], pid=row["pid"], idle_seconds=seconds)
        return True

    def _report_obstacle(self, row: Row) -> None:
        if row["pid"] != self._out_of_reach:
            self._out_of_reach = row["pid"]
            log.warning(
                "takeover_obstructed", bridge=row["bridge"], role=row["role"], hint=row["obstacle"]
            )


def _seconds(row: Row) -> float:
    """Return for how long the leader's session has not moved."""
    seconds: float = (row["now"] - row["since"]).total_seconds()
    return seconds
