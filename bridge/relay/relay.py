"""Leads, and drains the outbox, or follows the log; passes events on to the stream and delivery.

One of the bridges on a database, the leader, drains the outbox. ``bridge.leader`` names the
connection on which it listens and drains. The leadership ends with that connection, so a bridge
never has one without the other. The other bridges follow the log and serve their own clients from
it; one of them takes over when the leader is gone or frozen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime

import structlog
import trio

from bridge.database import limits
from bridge.database.clock import ServerClock
from bridge.database.errors import (
    DatabaseError,
    DatabaseUnavailable,
    MissingPartitionError,
)
from bridge.database.identity import bridge_name
from bridge.database.pool import Connection, Database, Row
from bridge.events import Event, events_of
from bridge.relay.deferral import Deferral
from bridge.relay.doorbell import Doorbell, Drained, Mode, State
from bridge.relay.drain import DRAIN_BYTES, Drainer
from bridge.relay.takeover import BEAT_SECONDS, Takeover
from bridge.relay.upkeep import create_partitions
from bridge.relay.watermark import Watermark
from bridge.tasks import WakeUp, ungrouped
from bridge.telemetry import logs, metrics

log = structlog.get_logger()

#: How long a stopping leader may take to switch the doorbell off.
LEAVING_SECONDS = 1.0
#: How often a follower tries to lead, which bounds how long a dead leader is missed.
TAKEOVER_SECONDS = 1.0
#: Plans are cached, often while the queue is empty, and must also suit a backlog.
FAST_PLANS = "set enable_seqscan = off"
#: A published event must survive a crash of the server; otherwise its id would be given out again.
DURABLE = (
    "select set_config('synchronous_commit', 'on', false)"
    " where current_setting('synchronous_commit') = 'off'"
)
_NO_CHANNELS: Mapping[str, Callable[[], None]] = {}


class Relay:
    """Leads, or follows the leader until it can take over.

    Args:
        database: holds the outbox and the log.
        clock: set from the answers of the database.
        last_event_id: the newest event of the log that need not be published.
        publish: called with every event of the log once, in order of ids.
        went_back: called with the newest event id if the database lost published events.
            Publishing continues from there.
        enqueued: called when deliveries may have been added to the queue.
        woken: called on ``bridge.wake_couriers()``, when other deliveries may be due.
        mode: whether the application rings: adaptive, always or never.
        poll_seconds: longest wait for the doorbell.
        quiet_poll_seconds: poll interval while the doorbell is quiet.
        batch: most events of one drain.
        listen_to: further channels with the function to call on a notification.
    """

    def __init__(
        self,
        database: Database,
        clock: ServerClock,
        *,
        last_event_id: int,
        publish: Callable[[Sequence[Event]], None],
        went_back: Callable[[int], None],
        enqueued: Callable[[], None],
        woken: Callable[[], None],
        mode: Mode = "adaptive",
        poll_seconds: float,
        quiet_poll_seconds: float = 0.01,
        batch: int,
        listen_to: Mapping[str, Callable[[], None]] = _NO_CHANNELS,
    ) -> None:
        self._database = database
        self._listen_to = listen_to
        self._publish = publish
        self._went_back = went_back
        self._enqueued = enqueued
        self._woken = woken
        self._mode: Mode = mode
        self._poll_seconds = poll_seconds
        self._quiet_poll_seconds = quiet_poll_seconds
        self._batch = batch
        self._last_event_id = last_event_id
        self._last_occurred_at: datetime | None = None
        # A restored database may have lost events. Their ids must not be given out again.
        self._highest_event_id = last_event_id
        #: The doorbell's state machine; None unless this bridge leads.
        self.doorbell: Doorbell | None = None
        self._clock = clock
        self._last_round = -float("inf")
        #: Run it beside the relay.
        self.deferral = Deferral(database, enqueued)
        #: Whether the relay has a connection that listens.
        self.listens = False
        metrics.doorbell_mode.state(mode)
        _show_doorbell(None)

    @property
    def leading(self) -> bool:
        """Whether this bridge drains the outbox."""
        return self.doorbell is not None

    def trouble(self) -> str | None:
        """Return why the relay counts as stalled; None if it drains or follows in time."""
        waited = trio.current_time() - self._last_round
        if waited < max(5.0, 3 * self._poll_seconds):
            return None
        if waited == float("inf"):
            return "this bridge has not polled for events yet"
        return f"this bridge has not polled for events for {waited:.0f} s"

    async def run(self) -> None:
        """Follow or lead on one connection until it is lost.

        Raises:
            DatabaseUnavailable: the connection is lost. Run again: no events are lost.
        """
        async with self._database.connect(seconds=limits.RELAY_SECONDS) as connection:
            rung = WakeUp()
            connection.on_loss(rung.signal)
            # Listen before the first drain, so that no commit falls in between.
            await connection.listen("bridge_outbox", rung.signal)
            await connection.listen("bridge_events", rung.signal)
            await connection.listen("bridge_deliveries", self._woken)
            for channel, notify in self._listen_to.items():
                await connection.listen(channel, notify)
            self.listens = True
            await connection.execute(FAST_PLANS)
            await connection.execute(DURABLE)
            await self._compare_log(connection)
            try:
                await self._wait_to_lead(connection, rung)
                metrics.draining.set(1)
                log.info("leadership_acquired", doorbell=self._mode)
                await connection.unlisten("bridge_events")
                await self._lead(connection, rung)
            except trio.Cancelled:
                if self.leading:
                    await _leave_quiet(connection)
                raise
            finally:
                self.doorbell = None
                self.listens = False
                self.deferral.begin(None)
                metrics.draining.set(0)
                _show_doorbell(None)

    async def _compare_log(self, connection: Connection) -> None:
        """Detect a log that lost events which this bridge has published."""
        [row] = await connection.fetch("log_goes_on", self._last_event_id, self._last_occurred_at)
        if not row["goes_on"]:
            log.error(
                "event_log_rewound",
                published_event_id=self._last_event_id,
                newest_event_id=row["newest_id"],
            )
            self._last_event_id, self._last_occurred_at = row["newest_id"], None
            self._went_back(self._last_event_id)

    async def _wait_to_lead(self, connection: Connection, rung: WakeUp) -> None:
        """Follow the log until this connection leads."""
        takeover = Takeover()
        while True:
            [row] = await connection.fetch("lead")
            # Also after becoming the leader: the last one logged events not published here.
            await self._follow(connection)
            if row["leading"]:
                return
            self._last_round = trio.current_time()
            if await takeover.end_frozen_leader(connection):
                continue
            await rung.wait(min(self._poll_seconds, TAKEOVER_SECONDS))

    async def _lead(self, connection: Connection, rung: WakeUp) -> None:
        """Drain forever: on a ring, or every few milliseconds while the doorbell is quiet."""
        doorbell = Doorbell(
            self._mode,
            poll_seconds=self._poll_seconds,
            quiet_poll_seconds=self._quiet_poll_seconds,
        )
        quiet = doorbell.is_quiet
        await connection.fetch("begin_to_drain", bridge_name(), self._mode, quiet)
        self.doorbell = doorbell
        _show_doorbell(doorbell.state)
        [last] = await connection.fetch("last_ids")
        [row] = await connection.fetch("deferred_from")
        self.deferral.begin(row["webhook_id"])
        drainer = Drainer(
            connection,
            Watermark(last["outbox_id"]),
            self._batch,
            self._clock,
            self.deferral,
            max(last["event_id"], self._highest_event_id),
        )
        await drainer.advance_sequences()
        while True:
            rows, drained = await self._drain(
                connection, drainer, everywhere=doorbell.state is State.REARMING
            )
            self._pass_on(rows)
            self._last_round = trio.current_time()
            doorbell.record(self._last_round, drained)
            _show_doorbell(doorbell.state)
            if doorbell.is_quiet != quiet:
                quiet = doorbell.is_quiet
                await connection.fetch("switch_doorbell", quiet)
                metrics.doorbell_switches.labels("quiet" if quiet else "ring").inc()
            elif drainer.complete:
                # While it is quiet, a stray ring would waste a drain.
                await _rest(connection, doorbell.pause_seconds, None if quiet else rung)

    async def _drain(
        self, connection: Connection, drainer: Drainer, *, everywhere: bool
    ) -> tuple[Sequence[Row], Drained]:
        try:
            return await drainer.drain(everywhere=everywhere)
        except MissingPartitionError:
            # The statement was rolled back. Upkeep creates partitions days ahead, so the clock
            # jumped or upkeep has failed for a week.
            async with _beating(connection):
                created = await create_partitions(self._database)
            if not created:
                raise
            return await drainer.drain(everywhere=everywhere)

    async def _follow(self, connection: Connection) -> None:
        """Publish events logged by another bridge, or by this one before it lost its connection."""
        while True:
            asked = self._clock.asks()
            rows = await connection.fetch(
                "events_since", self._last_event_id, self._batch, DRAIN_BYTES
            )
            if not rows:
                return
            self._clock.answered(rows[0]["now"], asked)
            self._publish_all(events_of(rows))
            self._enqueued()

    def _pass_on(self, rows: Sequence[Row]) -> None:
        """Publish, count and log the events of one drain."""
        if not rows:
            return
        events = events_of(rows)
        now = self._clock.seconds()
        metrics.commit_to_drained.observe_all([now - e.occurred_at.timestamp() for e in events])
        self._publish_all(events)
        if rows[0]["deliveries"]:
            self._enqueued()
        metrics.events_drained.inc(len(events))
        if logs.logs_items():
            for event in events:
                log.debug("event_drained", event_id=event.id, event_type=event.event_type)
        failed = Counter(row["event_type"] for row in rows if row["has_failed"])
        for event_type, count in failed.items():
            metrics.count_capture_errors(event_type, count)
            log.warning(
                "capture_failed", event_type=event_type, events=count, hint="run pgbridge doctor"
            )

    def _publish_all(self, events: Sequence[Event]) -> None:
        self._last_event_id, self._last_occurred_at = events[-1].id, events[-1].occurred_at
        self._highest_event_id = max(self._highest_event_id, self._last_event_id)
        self._publish(events)


def _show_doorbell(current: State | None) -> None:
    metrics.doorbell_state.show_states({state.value: state is current for state in State})


async def _rest(connection: Connection, seconds: float, rung: WakeUp | None) -> None:
    """Wait, for a ring if there is one to wait for, and show meanwhile that this leader lives."""
    end = trio.current_time() + seconds
    while (left := end - trio.current_time()) > 0:
        step = min(left, BEAT_SECONDS)
        if rung is None:
            await trio.sleep(step)
        elif await rung.wait(step):
            return
        if step < left:
            await connection.fetch("clock")


@asynccontextmanager
async def _beating(connection: Connection) -> AsyncIterator[None]:
    """Show that this leader lives while it waits for something else than its connection."""

    async def beat() -> None:
        while True:
            await trio.sleep(BEAT_SECONDS)
            with trio.CancelScope(shield=True):
                await connection.fetch("clock")

    with ungrouped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat)
            yield
            nursery.cancel_scope.cancel()


async def _leave_quiet(connection: Connection) -> None:
    """Switch the doorbell off when the leader stops, so that the application does not ring in vain.

    The next leader sets the doorbell after this, because this one still holds the lock.
    """
    with (
        trio.move_on_after(LEAVING_SECONDS, shield=True),
        suppress(DatabaseUnavailable, DatabaseError),
    ):
        await connection.fetch("switch_doorbell", True)
