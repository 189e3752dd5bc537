"""Moves events from the outbox to the log, and hands them to the live stream and to delivery.

Of all bridges on a database one drains: ``bridge.leader`` names the connection on which it listens
and drains, for as long as that one is there, so that losing any of the three is losing all. The
others follow the log and serve their own clients from it; one of them takes over when it has gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

import structlog
import trio

from bridge.database.clock import ServerClock
from bridge.database.errors import DatabaseError, DatabaseUnavailable, MissingPartitionError
from bridge.database.identity import bridge_name
from bridge.database.pool import Connection, Database, Row
from bridge.events import Event
from bridge.relay.doorbell import Doorbell, Look, Mode, State
from bridge.relay.upkeep import create_partitions
from bridge.relay.watermark import Watermark
from bridge.tasks import WakeUp
from bridge.telemetry import logs, metrics

log = structlog.get_logger()

#: How long a bridge that stops may take to silence the doorbell.
LEAVING_SECONDS = 1.0
#: How often a bridge that does not drain tries to, so that another that has died is replaced soon.
TAKEOVER_SECONDS = 1.0
#: How often the whole outbox is looked through, whatever the watermark says.
FULL_SCAN_SECONDS = 60.0
#: Plans are kept, and made when the queue is empty; they must suit it when it is not.
FAST_PLANS = "set enable_seqscan = off"
#: What is published must outlive a crash of the server, whatever it does for others: it would give
#: the ids out again.
DURABLE = (
    "select set_config('synchronous_commit', 'on', false)"
    " where current_setting('synchronous_commit') = 'off'"
)
_NO_CHANNELS: Mapping[str, Callable[[], None]] = {}


class Relay:
    """The drainer, or one that waits to become it.

    Args:
        database: where the outbox and the log are.
        last_event_id: the newest event of the log that need not be published.
        publish: gets every event of the log once, in order of ids; returns the types of those that
            somebody was sent, if any were.
        went_back: told when the database has lost what was published, with the id of the newest
            event that it has; what is published then goes on from there.
        enqueued: called when deliveries may have been added to the queue.
        woken: called when somebody says, by ``bridge.wake_couriers()``, that others may be due.
        mode: whether the application rings: by turns, always or never.
        poll_seconds: how long at most it waits for the doorbell.
        quiet_poll_seconds: how often it looks while the doorbell is quiet.
        batch: events a drain takes at most.
        listen_to: further channels, and who is told of what is notified there.
    """

    def __init__(
        self,
        database: Database,
        *,
        last_event_id: int,
        publish: Callable[[Sequence[Event]], Collection[str] | None],
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
        #: The doorbell as this bridge sees it; None unless it is the drainer.
        self.doorbell: Doorbell | None = None
        self._clock = ServerClock()
        self._last_round = -float("inf")
        #: Whether it has a connection that listens.
        self.listens = False
        metrics.doorbell_mode.state(mode)
        _show_doorbell(None)

    @property
    def leading(self) -> bool:
        """Whether this bridge is the drainer."""
        return self.doorbell is not None

    def trouble(self) -> str | None:
        """Say that the relay has not got around to draining or following; None if it has."""
        waited = trio.current_time() - self._last_round
        if waited < max(5.0, 3 * self._poll_seconds):
            return None
        if waited == float("inf"):
            return "this bridge has not looked for events yet"
        return f"this bridge has not got around to looking for events for {waited:.0f} s"

    async def run(self) -> None:
        """Work on one connection until it is lost.

        Raises:
            DatabaseUnavailable: it is lost. Run again: nothing is forgotten in between.
        """
        async with self._database.connect() as connection:
            rung = WakeUp()
            connection.on_loss(rung.signal)
            # First listen, then look: what commits in between rings.
            await connection.listen("bridge_outbox", rung.signal)
            await connection.listen("bridge_events", rung.signal)
            await connection.listen("bridge_deliveries", self._woken)
            for channel, told in self._listen_to.items():
                await connection.listen(channel, told)
            self.listens = True
            await connection.execute(FAST_PLANS)
            await connection.execute(DURABLE)
            await self._compare_log(connection)
            try:
                await self._wait_to_lead(connection, rung)
                metrics.draining.set(1)
                log.info("leading", doorbell=self._mode)
                await connection.unlisten("bridge_events")
                await self._lead(connection, rung)
            except trio.Cancelled:
                if self.leading:
                    await _leave_quiet(connection)
                raise
            finally:
                self.doorbell = None
                self.listens = False
                metrics.draining.set(0)
                _show_doorbell(None)

    async def _compare_log(self, connection: Connection) -> None:
        """See that it is still the log from which events were published before."""
        [row] = await connection.fetch("log_goes_on", self._last_event_id, self._last_occurred_at)
        if not row["goes_on"]:
            log.error("log_went_back", published=self._last_event_id, newest=row["newest_id"])
            self._last_event_id, self._last_occurred_at = row["newest_id"], None
            self._went_back(self._last_event_id)

    async def _wait_to_lead(self, connection: Connection, rung: WakeUp) -> None:
        """Follow the log until this connection is the one that drains."""
        while True:
            [row] = await connection.fetch("lead")
            # Also before the first drain: what the last drainer logged is still to be published.
            await self._follow(connection)
            if row["leading"]:
                return
            self._last_round = trio.current_time()
            await rung.wait(min(self._poll_seconds, TAKEOVER_SECONDS))

    async def _lead(self, connection: Connection, rung: WakeUp) -> None:
        """Drain for ever: when rung, or, while the doorbell is quiet, every few milliseconds."""
        doorbell = Doorbell(
            self._mode,
            poll_seconds=self._poll_seconds,
            quiet_poll_seconds=self._quiet_poll_seconds,
        )
        quiet = doorbell.is_quiet
        await connection.fetch("begin_to_drain", bridge_name(), self._mode, quiet)
        self.doorbell = doorbell
        _show_doorbell(doorbell.state)
        [row] = await connection.fetch("outbox_last_id")
        drainer = Drainer(connection, Watermark(row["last_id"]), self._batch, self._clock)
        while True:
            rows, look = await self._drain(drainer, everywhere=doorbell.state is State.REARMING)
            self._hand_over(rows)
            self._last_round = trio.current_time()
            doorbell.looked(self._last_round, look)
            _show_doorbell(doorbell.state)
            if doorbell.is_quiet != quiet:
                quiet = doorbell.is_quiet
                await connection.fetch("switch_doorbell", quiet)
                metrics.doorbell_switches.labels("quiet" if quiet else "ring").inc()
            elif len(rows) < self._batch:
                if doorbell.hears_rings:
                    await rung.wait(doorbell.pause_seconds)
                else:
                    await trio.sleep(doorbell.pause_seconds)

    async def _drain(self, drainer: Drainer, *, everywhere: bool) -> tuple[Sequence[Row], Look]:
        try:
            return await drainer.drain(everywhere=everywhere)
        except MissingPartitionError:
            # The statement did nothing. Upkeep makes partitions days ahead, so this is a clock
            # that jumped or an upkeep that has failed for a week.
            if not await create_partitions(self._database):
                raise
            return await drainer.drain(everywhere=everywhere)

    async def _follow(self, connection: Connection) -> None:
        """Publish what another bridge, or this one before it lost its connection, has logged."""
        rows = None
        while rows is None or len(rows) == self._batch:
            asked = self._clock.asks()
            rows = await connection.fetch("events_since", self._last_event_id, self._batch)
            if rows:
                self._clock.answered(rows[0]["now"], asked)
            events = [
                Event(row["id"], row["event_type"], row["payload"], row["occurred_at"])
                for row in rows
            ]
            self._hand_on(events, _captured(events))
            if events:
                self._enqueued()

    def _hand_over(self, rows: Sequence[Row]) -> None:
        """Publish what was drained just now."""
        events = [
            Event(row["event_id"], row["event_type"], row["payload"], row["captured_at"])
            for row in rows
        ]
        captured = _captured(events)
        if events:
            now = self._clock.seconds()
            metrics.commit_to_drained.observe_all([now - each for each in captured])
        self._hand_on(events, captured)
        if rows and rows[0]["deliveries"]:
            self._enqueued()
        metrics.events_drained.inc(len(events))
        if logs.items_told():
            for event in events:
                log.debug("event_drained", event_id=event.id, event_type=event.event_type)
        failed = Counter(row["event_type"] for row in rows if row["has_failed"])
        for event_type, count in failed.items():
            metrics.count_capture_errors(event_type, count)
            log.warning("capture_error", event_type=event_type, events=count, see="pgbridge doctor")

    def _hand_on(self, events: Sequence[Event], captured: Sequence[float]) -> None:
        """Publish events, and count how long it took until clients had them.

        Args:
            captured: when each was, in seconds.
        """
        if not events:
            return
        self._last_event_id, self._last_occurred_at = events[-1].id, events[-1].occurred_at
        if sent := self._publish(events):
            now = self._clock.seconds()
            if not {event.event_type for event in events}.issubset(sent):
                captured = _captured([each for each in events if each.event_type in sent])
            metrics.commit_to_client.observe_all([now - each for each in captured])


def _captured(events: Sequence[Event]) -> list[float]:
    return [event.occurred_at.timestamp() for event in events]


def _show_doorbell(current: State | None) -> None:
    metrics.doorbell_state.show_states({state.value: state is current for state in State})


async def _leave_quiet(connection: Connection) -> None:
    """Have the application ring for nobody, once a bridge has stopped in order.

    The lock is still ours: whoever drains next sets the doorbell after this.
    """
    with (
        trio.move_on_after(LEAVING_SECONDS, shield=True),
        suppress(DatabaseUnavailable, DatabaseError),
    ):
        await connection.fetch("switch_doorbell", True)


class Drainer:
    """Runs the drain statement, and keeps the watermark that it needs.

    Args:
        clock: is set by what each drain says.
    """

    def __init__(
        self, connection: Connection, watermark: Watermark, batch: int, clock: ServerClock
    ) -> None:
        self._connection = connection
        self._watermark = watermark
        self._batch = batch
        self._clock = clock
        self._complete = True
        self._gaps_scanned_at = -float("inf")
        self._full_scan_at = trio.current_time() + FULL_SCAN_SECONDS

    async def drain(self, *, everywhere: bool = False) -> tuple[Sequence[Row], Look]:
        """Return the drained rows, in order, and what the drain says of the outbox.

        Args:
            everywhere: look through the gaps, however wide.
        """
        now = trio.current_time()
        watermark = self._watermark
        # With a backlog the gaps are looked through every time: what is oldest goes first.
        scan_gaps = (
            everywhere
            or not (watermark.wide and self._complete)
            or now - self._gaps_scanned_at >= 1.0
        )
        gaps = [(gap.low, gap.high) for gap in watermark.gaps] if scan_gaps else []
        if now >= self._full_scan_at:
            # A net under the reasoning of the watermark: whatever is below the mark is taken.
            gaps, scan_gaps = [(1, watermark.mark)], True
            self._full_scan_at = now + FULL_SCAN_SECONDS
        asked = self._clock.asks()
        rows = await self._connection.fetch(
            "drain",
            watermark.mark,
            [low for low, _ in gaps],
            [high for _, high in gaps],
            self._batch,
        )
        self._clock.answered(rows[0]["now"], asked)
        xmin, next_xid = rows[0]["xmin"], rows[0]["next_xid"]
        if rows[0]["outbox_id"] is None:
            rows = []
        self._complete = len(rows) < self._batch
        watermark.record(
            [row["outbox_id"] for row in rows],
            xmin=xmin,
            next_xid=next_xid,
            complete=self._complete,
            gaps_scanned=scan_gaps,
        )
        if scan_gaps:
            self._gaps_scanned_at = now
        return rows, Look(len(rows), self._complete and scan_gaps, xmin, next_xid)
