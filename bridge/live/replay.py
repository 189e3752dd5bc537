"""One client's place in the stream: it follows live events or catches up on missed ones."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from bridge.live.connection import Connection
from bridge.live.framing import message_frame
from bridge.live.history import Page
from bridge.live.hub import Hub
from bridge.live.selection import Selection
from bridge.telemetry import metrics

#: Clients that are written missed events between two turns of the live stream.
CONCURRENT_REPLAYS: Final = 8


def gap_frame(since: int, available_from: int) -> bytes:
    """Return the message that the events between two ids are no longer available."""
    return message_frame({"type": "gap", "since": since, "available_from": available_from})


class Replay:
    """Sends one client its events in the order of ids, each once.

    A client that catches up does not follow the live stream, so it delays no other client. It
    joins the stream at the moment it has caught up.

    Args:
        turns: shared by all clients; limits how many are written missed events at once.
    """

    __slots__ = ("_carried_from", "_connection", "_hub", "_scope", "_selection", "_turns")

    def __init__(
        self, connection: Connection, hub: Hub, turns: trio.Semaphore, selection: Selection
    ) -> None:
        self._connection = connection
        self._hub = hub
        self._turns = turns
        self._selection = selection
        # All selected events after this id were sent on this connection, or are being sent.
        self._carried_from = hub.last_event_id
        self._scope: trio.CancelScope | None = None

    @property
    def is_running(self) -> bool:
        """Whether the client is catching up."""
        return self._scope is not None

    def follow(self) -> None:
        """Begin to send the live stream."""
        self._hub.join(self._connection.outlet, self._selection)

    def select(self, selection: Selection, *, wider: bool) -> None:
        """Replace the selection.

        Args:
            wider: whether it has events that the former one had not.
        """
        self._hub.leave(self._connection.outlet, self._selection)
        self._selection = selection
        if wider:
            self._carried_from = self._hub.last_event_id
        if self._scope is None:
            self.follow()

    def start(self, since: int) -> None:
        """Send the events after an id, then follow the live stream again."""
        outlet = self._connection.outlet
        self._hub.leave(outlet, self._selection)
        # If the client is cut off from now on, it must resume from this id again.
        outlet.mark(since)
        self._scope = trio.CancelScope()
        self._connection.nursery.start_soon(
            self._run,
            self._scope,
            since,
            self._carried_from,
            self._hub.last_event_id,
            self._selection,
        )
        # If this bridge has not published the id, _reach corrects this.
        self._carried_from = min(since, self._carried_from)

    def stop(self) -> None:
        """Send nothing more."""
        if self._scope is not None:
            self._scope.cancel()
        self._hub.leave(self._connection.outlet, self._selection)

    async def _run(
        self,
        scope: trio.CancelScope,
        since: int,
        carried_from: int,
        left_at: int,
        carried: Selection,
    ) -> None:
        """Send the events after an id.

        Args:
            carried_from: id after which this connection has carried events,
            left_at: id up to which it has,
            carried: and their selection.
        """
        outlet = self._connection.outlet
        with scope:
            # If the session ended before this task began, it is cancelled here.
            await trio.lowlevel.checkpoint()
            if since > left_at:
                begin = await self._reach(since, left_at)
            elif carried_from < left_at:
                await self._send_missed(since, carried_from)
                # Go over the carried events again for types that were subscribed to since.
                if not self._selection.patterns <= carried.patterns:
                    await self._send_missed(max(since, carried_from), left_at, carried)
                begin = left_at
            else:
                begin = since
            outlet.mark(begin)
            await self._send_missed(begin, None)
            if scope.cancel_called:
                # The session ended during a read, which cannot be cancelled. Joining now would
                # leave the outlet in the hub, and its descriptor will be another connection's.
                return
            # No event is published between the last look at the history and joining the hub.
            last_event_id = self._hub.last_event_id
            resumed = {"type": "resumed", "from": since, "to": last_event_id}
            outlet.write_nowait(message_frame(resumed), last_event_id)
            self._scope = None
            self.follow()

    async def _reach(self, since: int, left_at: int) -> int:
        """Wait for an id that this bridge has not published; return the id to continue from.

        Another bridge may be slightly ahead. If the log does not have the id, it is of another
        database, or of this one before it was restored from a backup.
        """
        newest_id = await self._hub.history.newest_id()
        await trio.lowlevel.checkpoint()  # the session may have ended meanwhile
        if since <= newest_id:
            await self._hub.history.reached(since)
            self._carried_from = since
            return since
        self._connection.outlet.write_nowait(gap_frame(since, left_at + 1))
        return left_at

    async def _send_missed(
        self, cursor: int, until: int | None, carried: Selection | None = None
    ) -> None:
        """Send the selected events after an id.

        Args:
            until: the last id to send; None for the last published one.
            carried: events to leave out.
        """
        outlet, history = self._connection.outlet, self._hub.history
        while cursor < (history.last_event_id if until is None else until):
            async with self._turn():
                # Look here, during this client's turn. While a thousand clients wait for theirs,
                # events are published, and with an older page none would ever catch up.
                page = history.recent.page(cursor)
                if page is not None:
                    page = page.part(cursor, until, carried)
                    for frames, last_id, count in page.chunks(self._selection):
                        outlet.write_nowait(frames, last_id)
                        metrics.events_streamed.inc(count)
                    cursor = page.through
            if page is None:
                cursor = await self._send_logged(cursor, until, carried)

    async def _send_logged(self, cursor: int, until: int | None, carried: Selection | None) -> int:
        """Send the selected events of one page of the log; return the id to continue from."""
        page = await self._hub.history.page(cursor)
        await trio.lowlevel.checkpoint()  # a read cannot be cancelled
        if cursor + 1 < page.available_from:
            self._connection.outlet.write_nowait(gap_frame(cursor, page.available_from))
        page = page.part(cursor, until, carried)
        while (sent_through := await self._send_page(page)) < page.through:
            page = page.part(sent_through)
        return page.through

    async def _send_page(self, page: Page) -> int:
        """Send a page until the selection changes; return the last id that was covered."""
        selection = self._selection
        sent_through = 0
        for frames, last_id, count in page.chunks(selection):
            async with self._turn():
                if self._selection is not selection:
                    return sent_through
                self._connection.outlet.write_nowait(frames, last_id)
                metrics.events_streamed.inc(count)
            sent_through = last_id
        return page.through

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for this client's turn to be written to, with nothing else in its buffer."""
        outlet = self._connection.outlet
        while True:
            await outlet.drained()
            async with self._turns:
                # An answer or a ping may wait again, and the chunk may not fit behind it.
                if outlet.is_drained:
                    yield
                    return
