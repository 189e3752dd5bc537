"""Tell from memory whether the bridge makes progress, and if not, why.

Receivers do not count: restarting a bridge does not help a receiver that is down or slow.
"""

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import structlog
import trio

from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.pool import Database
from bridge.database.shares import Share
from bridge.operations.pacing import pause_after
from bridge.telemetry import metrics

log = structlog.get_logger()

#: An event that stays the oldest in the outbox for this long blocks all later ones.
STALL_SECONDS = 10.0
#: Pause between looks at the outbox, usually and at most.
LOOK_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 30.0
#: When a look that has not returned fails the check.
ANSWER_SECONDS = 10.0
#: How often test notifications are sent, how long one may take and a lost LISTEN connection may
#: take to return, and the pause before another try.
PROBE_SECONDS = 10.0
ARRIVAL_SECONDS = 5.0
RETRY_SECONDS = 0.5
#: How often changes of readiness are noticed.
WATCH_SECONDS = 1.0

#: Returns the problem in one line, or None.
Check = Callable[[], str | None]


class Readiness:
    """The readiness checks of a bridge.

    Args:
        checks: more checks, by name.
        stall_seconds: how long an event may stay the oldest in the outbox; at least
            ``STALL_SECONDS``.
    """

    def __init__(
        self, database: Database, checks: Mapping[str, Check], *, stall_seconds: float
    ) -> None:
        self._database = Share(database, 1)
        self._stall_seconds = max(stall_seconds, STALL_SECONDS)
        self._checks: Mapping[str, Check] = {
            **checks,
            "outbox": self._outbox_trouble,
            "database": self._database_trouble,
        }
        # The oldest event in the outbox, and when it was first seen as the oldest.
        self._oldest: int | None = None
        self._oldest_since: float | None = None
        self._seen: Mapping[str, Any] | None = None
        self._stalled = False
        # When the current look started, and whether the previous one succeeded.
        self._asked_at: float | None = None
        self._answered = False

    def troubles(self) -> dict[str, str | None]:
        """Return the problem of each check, or None for a check that passes."""
        return {name: check() for name, check in self._checks.items()}

    async def run(self) -> None:
        """Look forever, update the metrics, and log changes."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_repeatedly)
            nursery.start_soon(self._watch)

    async def _look_repeatedly(self) -> None:
        while True:
            self._asked_at = started = trio.current_time()
            pause = LOOK_SECONDS
            try:
                [self._seen] = await self._database.fetch("progress")
            except (DatabaseUnavailable, DatabaseError):
                self._answered = False
            else:
                self._answered = True
                self._compare(started, self._seen)
                took = trio.current_time() - started
                pause = pause_after(took, LOOK_SECONDS, LONGEST_PAUSE_SECONDS)
            self._asked_at = None
            await trio.sleep(pause)

    def _compare(self, now: float, seen: Mapping[str, Any]) -> None:
        if self._oldest_since is None:
            # A new bridge takes over a stall that began before it started.
            self._oldest, self._oldest_since = (
                seen["oldest_id"],
                now - (seen["oldest_seconds"] or 0),
            )
        elif seen["oldest_id"] != self._oldest:
            self._oldest, self._oldest_since = seen["oldest_id"], now
        self._stalled = self._oldest is not None and now - self._oldest_since >= self._stall_seconds

    def _outbox_trouble(self) -> str | None:
        """Return a problem if the same event stays the oldest. A moving backlog is fine."""
        if not self._stalled or self._seen is None:
            return None
        drainer = "no bridge is draining"
        if self._seen["is_drained"]:
            drainer = f"the drainer is {self._seen['drainer']}"
        return (
            f"row {self._oldest}, the oldest in bridge.outbox, has waited for "
            f"{self._seen['oldest_seconds']:.0f} s; {drainer}"
        )

    def _database_trouble(self) -> str | None:
        # Without the error's text, because /readyz needs no token. The log has it.
        if self._asked_at is not None:
            waited = trio.current_time() - self._asked_at
            if waited > ANSWER_SECONDS:
                return f"the database has not answered for {waited:.0f} s"
        if not self._answered:
            return "the database is unavailable or rejects queries; see the bridge's log"
        return None

    async def _watch(self) -> None:
        was_ready = True
        while True:
            # Sleep first, so that the other tasks can start.
            await trio.sleep(WATCH_SECONDS)
            troubles = self.troubles()
            metrics.ready.show_states({name: why is None for name, why in troubles.items()})
            reasons = {name: why for name, why in troubles.items() if why is not None}
            if was_ready and reasons:
                log.warning("readiness_lost", reasons=reasons)
            elif reasons == {} and not was_ready:
                log.info("readiness_regained")
            was_ready = not reasons


class ListenProbe:
    """Sends test notifications and checks that they reach the LISTEN connection.

    A pooler in transaction mode accepts LISTEN but never delivers, and a broken connection may go
    unnoticed for long.

    Args:
        listens: returns whether a connection listens to ``channel``.
        held_up: returns whether a statement blocks that connection. Notifications arrive only
            after the statement, so they say nothing about a pooler.
        needed: False disables the probe, because nothing depends on notifications.
    """

    def __init__(
        self,
        database: Database,
        *,
        listens: Callable[[], bool],
        held_up: Callable[[], bool] = lambda: False,
        needed: bool,
    ) -> None:
        self._database = Share(database, 1)
        self._listens = listens
        self._held_up = held_up
        self._needed = needed
        self._arrived = trio.Event()
        self._arrived_at = -float("inf")
        self._listened_at = trio.current_time()
        self._failed = False
        #: The channel of the test notifications. The LISTEN connection must listen to it too.
        self.channel = f"bridge_probe_{secrets.token_hex(8)}"

    def arrived(self) -> None:
        """Record that a test notification arrived."""
        self._arrived.set()

    async def run(self) -> None:
        """Probe forever."""
        while self._needed:
            now = trio.current_time()
            if self._listens():
                self._listened_at = now
                if self._failed or now - self._arrived_at > PROBE_SECONDS:
                    await self._probe()
            elif now - self._listened_at > ARRIVAL_SECONDS:
                self._failed = True
            metrics.listening.show(self.trouble() is None)
            await trio.sleep(RETRY_SECONDS)

    async def _probe(self) -> None:
        self._arrived = trio.Event()
        started = trio.current_time()
        try:
            await self._database.fetch("notify_probe", self.channel)
        except (DatabaseUnavailable, DatabaseError):
            return  # the check "database" reports this; ours fails if it lasts
        with trio.move_on_after(ARRIVAL_SECONDS):
            await self._arrived.wait()
        self._failed = not self._arrived.is_set()
        if not self._failed:
            self._arrived_at = trio.current_time()
            metrics.listen_round_trip.show(self._arrived_at - started)

    def trouble(self) -> str | None:
        """Return why notifications may not arrive, or None if one arrived recently."""
        late = trio.current_time() - self._arrived_at > PROBE_SECONDS + 2 * ARRIVAL_SECONDS
        if not self._needed or not (self._failed or late):
            return None
        if not self._listens():
            return "the LISTEN connection is down; see the bridge's log"
        if self._held_up():
            return "the LISTEN connection is blocked by a statement of the relay; see check relay"
        return (
            "test notifications do not reach the LISTEN connection; "
            "behind a pooler such as PgBouncer, set BRIDGE_LISTEN_URL to PostgreSQL's own address"
        )
