"""Whether the bridge makes progress, and if not, what is wrong: known at any moment, from memory.

What receivers do is no matter of it: one that is down or slow makes no bridge unfit, and to take
the bridge out of service would mend nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import structlog
import trio

from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.pool import Database
from bridge.database.shares import Share
from bridge.telemetry import metrics

log = structlog.get_logger()

#: An event that is still the first in the outbox after so long keeps all others up.
STALL_SECONDS = 10.0
#: How often the outbox is looked at. And so many times as long as a look took passes before the
#: next, up to a bound: while vacuum is held back, it walks over all that was drained since.
LOOK_SECONDS = 2.0
REST = 10
LONGEST_REST_SECONDS = 30.0
#: A look that takes longer is not answered.
ANSWER_SECONDS = 10.0
#: How often it is proven that what is notified is heard; how long hearing it may take, and, after
#: a connection is lost, to have another; and how soon it is tried again after it was not heard.
PROOF_SECONDS = 10.0
HEARING_SECONDS = 5.0
REPEAT_SECONDS = 0.5
#: How often it is noticed that the bridge is ready, or not any more.
WATCH_SECONDS = 1.0

#: Returns what is wrong, in a line; None if nothing is.
Check = Callable[[], str | None]


class Readiness:
    """What keeps the bridge from its work.

    Args:
        checks: further ones, by name.
        stall_seconds: how long the first event in the outbox may stay the first.
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
        # The first event in the outbox, and when it was seen there first.
        self._first: int | None = None
        self._first_seen_at = 0.0
        self._seen: Mapping[str, Any] | None = None
        self._stalled = False
        # When the look began that is under way, and whether the one before it was answered.
        self._asked_at: float | None = None
        self._answered = False

    def troubles(self) -> dict[str, str | None]:
        """Return what is wrong by each of the checks; None if nothing is."""
        return {name: check() for name, check in self._checks.items()}

    async def run(self) -> None:
        """Look for ever, show in metrics what comes of it, and log when it changes."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_now_and_then)
            nursery.start_soon(self._watch)

    async def _look_now_and_then(self) -> None:
        while True:
            self._asked_at = started = trio.current_time()
            rest = 0.0
            try:
                [self._seen] = await self._database.fetch("progress")
            except (DatabaseUnavailable, DatabaseError):
                self._answered = False
            else:
                self._answered = True
                self._compare(started, self._seen)
                rest = min(REST * (trio.current_time() - started), LONGEST_REST_SECONDS)
            self._asked_at = None
            await trio.sleep(max(LOOK_SECONDS, rest))

    def _compare(self, now: float, seen: Mapping[str, Any]) -> None:
        if seen["oldest_id"] != self._first:
            self._first, self._first_seen_at = seen["oldest_id"], now
        self._stalled = self._first is not None and now - self._first_seen_at >= self._stall_seconds

    def _outbox_trouble(self) -> str | None:
        """Say that the outbox stands still. However much it holds, it does not if that changes."""
        if not self._stalled or self._seen is None:
            return None
        drainer = "no bridge drains"
        if self._seen["is_drained"]:
            drainer = f"the drainer is {self._seen['drainer']}"
        return (
            f"row {self._first} of bridge.outbox is the first and has waited for "
            f"{self._seen['oldest_seconds']:.0f} s; {drainer}"
        )

    def _database_trouble(self) -> str | None:
        # Not the error's text: whoever asks has shown no token, and the log has it.
        if self._asked_at is not None:
            waited = trio.current_time() - self._asked_at
            if waited > ANSWER_SECONDS:
                return f"the database has not answered for {waited:.0f} s"
        if not self._answered:
            return "the database is away or refuses; see database_task_failed in the log"
        return None

    async def _watch(self) -> None:
        was_ready = True
        while True:
            # First a while for the other tasks to begin.
            await trio.sleep(WATCH_SECONDS)
            troubles = self.troubles()
            metrics.ready.show_states({name: why is None for name, why in troubles.items()})
            reasons = {name: why for name, why in troubles.items() if why is not None}
            if was_ready and reasons:
                log.warning("readiness_lost", reasons=reasons)
            elif reasons == {} and not was_ready:
                log.info("readiness_regained")
            was_ready = not reasons


class ListenProof:
    """Proves that what one connection notifies, the one that listens hears.

    A pooler in transaction mode takes a LISTEN and never delivers anything, and a connection may be
    gone for long before that is noticed.

    Args:
        listens: tells whether there is a connection that listens to ``channel``.
        held_up: tells whether that connection is busy with something that does not end: then what
            is notified comes only after that, whatever stands between.
        needed: whether anything depends on it; without, nothing is done.
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
        self._heard = trio.Event()
        self._heard_at = -float("inf")
        self._listened_at = trio.current_time()
        self._failed = False
        #: What is to be listened to, on the connection that listens to all else.
        self.channel = f"bridge_proof_{secrets.token_hex(8)}"

    def heard(self) -> None:
        """Take note: what was notified has come."""
        self._heard.set()

    async def run(self) -> None:
        """Prove it for ever."""
        while self._needed:
            now = trio.current_time()
            if self._listens():
                self._listened_at = now
                if self._failed or now - self._heard_at > PROOF_SECONDS:
                    await self._prove()
            elif now - self._listened_at > HEARING_SECONDS:
                self._failed = True
            metrics.listening.show(self.trouble() is None)
            await trio.sleep(REPEAT_SECONDS)

    async def _prove(self) -> None:
        self._heard = trio.Event()
        started = trio.current_time()
        try:
            await self._database.fetch("notify_proof", self.channel)
        except (DatabaseUnavailable, DatabaseError):
            return  # There is a check of its own for that, and this one fails when it lasts.
        with trio.move_on_after(HEARING_SECONDS):
            await self._heard.wait()
        self._failed = not self._heard.is_set()
        if not self._failed:
            self._heard_at = trio.current_time()
            metrics.listen_round_trip.show(self._heard_at - started)

    def trouble(self) -> str | None:
        """Say why what is notified may not be heard; None if it was of late."""
        late = trio.current_time() - self._heard_at > PROOF_SECONDS + 2 * HEARING_SECONDS
        if not self._needed or not (self._failed or late):
            return None
        if not self._listens():
            return "there is no connection that listens; see database_task_failed in the log"
        if self._held_up():
            return "the connection that listens is held up by the relay's own statement; see relay"
        return (
            "what is notified is not heard on the connection that listens; "
            "behind a pooler such as PgBouncer, set BRIDGE_LISTEN_URL to PostgreSQL's own address"
        )
