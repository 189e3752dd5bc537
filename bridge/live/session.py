"""The protocol of ``/ws``: what one client may say, once it was let in, and what it is answered."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from bridge.events import narrowed, outside
from bridge.live.connection import Connection
from bridge.live.frames import text_frame
from bridge.live.handshake import Opening
from bridge.live.history import Page
from bridge.live.hub import Hub
from bridge.live.selection import (
    EVERYTHING,
    MOST_PATTERNS,
    PatternError,
    Selection,
    checked_patterns,
)
from bridge.telemetry import metrics

#: Ids are bigint.
HIGHEST_ID: Final = 2**63 - 1
#: Clients that are sent something of what they missed between two looks at the live stream.
CONCURRENT_REPLAYS: Final = 8

Message = dict[str, Any]


class RefusedMessageError(Exception):
    """A message that changes nothing; the client is told why, and the connection lives."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Session:
    """A client that was let in.

    What it has coming arrives in the order of ids, each event once. While it is sent what it missed
    it does not follow the live stream, which nobody holds up for it: it joins at the moment when it
    has caught up.

    Args:
        turns: shared by all sessions: who may write something missed.
        visible: patterns of the events that it may see, whatever it chooses.
    """

    __slots__ = (
        "_carried_from",
        "_chosen",
        "_connection",
        "_hub",
        "_replay",
        "_selection",
        "_subscribed",
        "_turns",
        "_visible",
        "spoke_at",
    )

    def __init__(
        self,
        connection: Connection,
        hub: Hub,
        turns: trio.Semaphore,
        *,
        visible: frozenset[str] = EVERYTHING.patterns,
    ) -> None:
        self._connection = connection
        self._hub = hub
        self._turns = turns
        self._visible = visible
        self._chosen = EVERYTHING.patterns
        #: What is chosen, as far as it is visible.
        self._selection = Selection(narrowed(self._chosen, visible))
        #: Whether it was the client who chose them.
        self._subscribed = False
        #: What is selected of all events after this id has been sent, or is being sent.
        self._carried_from = hub.last_event_id
        self._replay: trio.CancelScope | None = None
        #: When the client last said anything, by trio's clock.
        self.spoke_at = trio.current_time()

    async def run(self, opening: Opening) -> None:
        """Serve the client until it leaves.

        Raises:
            trio_websocket.ConnectionClosed: it left.
        """
        outlet = self._connection.outlet
        try:
            outlet.write_nowait(self._welcome(), self._carried_from)
            self._hub.join(outlet, self._selection)
            for begin in (self._begin_events, self._begin_since):
                try:
                    begin(opening)
                except RefusedMessageError as refusal:
                    outlet.write_nowait(_refused(refusal))
            while True:
                message = await self._connection.websocket.get_message()
                self.spoke_at = trio.current_time()
                if answer := self._answer(message):
                    outlet.write_nowait(answer)
        finally:
            if self._replay is not None:
                self._replay.cancel()
            self._hub.leave(outlet, self._selection)

    def _begin_events(self, opening: Opening) -> None:
        if opening.events is not None:
            self._subscribe({"events": opening.events})

    def _begin_since(self, opening: Opening) -> None:
        if opening.since is not None:
            # Not int() alone: it also takes signs, underscores and other alphabets' digits.
            digits = re.fullmatch("[0-9]{1,19}", opening.since)
            self._resume({"since": int(opening.since) if digits else None})

    def _answer(self, message: str | bytes) -> bytes | None:
        try:
            parsed = json.loads(message)
        except (ValueError, RecursionError):
            return _refused(RefusedMessageError("bad_json", "not JSON"))
        kind = parsed.get("type") if isinstance(parsed, dict) else None
        handle = _HANDLERS.get(kind) if isinstance(kind, str) else None
        if handle is None:
            return _refused(RefusedMessageError("unknown_type", "unknown message type"))
        try:
            answer = handle(self, parsed)
        except RefusedMessageError as refusal:
            return _refused(refusal)
        return None if answer is None else _framed(answer)

    def _welcome(self) -> bytes:
        welcome: Message = {
            "type": "connection",
            "status": "connected",
            "message": "WebSocket connection established",
            "last_event_id": self._carried_from,
        }
        if self._visible != EVERYTHING.patterns:
            welcome["visible"] = sorted(self._visible)
        return _framed(welcome)

    # --- what a client may say

    def _ping(self, _message: Message) -> Message:
        return {"type": "pong"}

    def _auth(self, _message: Message) -> Message:
        raise RefusedMessageError("already_authenticated", "this connection has a valid token")

    def _subscribe(self, message: Message) -> Message:
        patterns = _patterns(message)
        for pattern in outside(patterns, self._visible):
            raise RefusedMessageError("forbidden", f"this token does not see {pattern}")
        if not self._subscribed:
            self._select(patterns)  # a part of everything
        elif not patterns <= self._chosen:
            if len(patterns | self._chosen) > MOST_PATTERNS:
                raise RefusedMessageError("bad_events", f"more than {MOST_PATTERNS} patterns")
            self._select(patterns | self._chosen)
            self._carried_from = self._hub.last_event_id
        return {"type": "subscribed", "events": sorted(self._chosen)}

    def _unsubscribe(self, message: Message) -> Message:
        patterns = _patterns(message)
        if unknown := patterns - self._chosen:
            raise RefusedMessageError("not_subscribed", f"not subscribed to {min(unknown)}")
        self._select(self._chosen - patterns)
        return {"type": "unsubscribed", "events": sorted(self._chosen)}

    def _resume(self, message: Message) -> None:
        since = message.get("since")
        if not isinstance(since, int) or isinstance(since, bool) or not 0 <= since <= HIGHEST_ID:
            raise RefusedMessageError("bad_since", f"since must be an id, 0 to {HIGHEST_ID}")
        if self._replay is not None:
            raise RefusedMessageError("resume_in_progress", "still sending what was missed")
        outlet = self._connection.outlet
        self._hub.leave(outlet, self._selection)
        # If it is cut off from now on, it has to resume from there again.
        outlet.mark(since)
        self._replay = trio.CancelScope()
        self._connection.start_soon(
            self._catch_up,
            self._replay,
            since,
            self._carried_from,
            self._hub.last_event_id,
            self._selection,
        )
        # Of an id that this bridge has not come to, _reach knows more.
        self._carried_from = min(since, self._carried_from)

    def _select(self, patterns: frozenset[str]) -> None:
        self._subscribed = True
        self._hub.leave(self._connection.outlet, self._selection)
        self._chosen = patterns
        self._selection = Selection(narrowed(patterns, self._visible))
        if self._replay is None:
            self._hub.join(self._connection.outlet, self._selection)

    # --- what it missed

    async def _catch_up(
        self,
        scope: trio.CancelScope,
        since: int,
        carried_from: int,
        left_at: int,
        carried: Selection,
    ) -> None:
        """Send what the client missed after an id, then have it follow the live stream again.

        Args:
            carried_from: what came after it was sent on this connection before,
            left_at: up to here,
            carried: as far as it was selected then.
        """
        outlet = self._connection.outlet
        with scope:
            # The task may begin after the session has ended; then it ends here.
            await trio.lowlevel.checkpoint()
            if since > left_at:
                begin = await self._reach(since, left_at)
            elif carried_from < left_at:
                await self._send_missed(since, carried_from)
                # Once more over what was sent before, for what was subscribed to since.
                if not self._selection.patterns <= carried.patterns:
                    await self._send_missed(max(since, carried_from), left_at, carried)
                begin = left_at
            else:
                begin = since
            outlet.mark(begin)
            await self._send_missed(begin, None)
            if scope.cancel_called:
                # The session has ended during a read, which cannot be cancelled, and nobody would
                # have the hub forget this client: its descriptor will be another connection's.
                return
            # Nothing can happen between the last look and this: it missed no event, and gets none
            # twice.
            last_event_id = self._hub.last_event_id
            resumed = {"type": "resumed", "from": since, "to": last_event_id}
            outlet.write_nowait(_framed(resumed), last_event_id)
            self._replay = None
            self._hub.join(outlet, self._selection)

    async def _send_missed(
        self, cursor: int, until: int | None, carried: Selection | None = None
    ) -> None:
        """Send what is selected of the events after an id.

        Args:
            until: the last id to send; None: whatever is the last that was published.
            carried: what is not sent again.
        """
        outlet, history = self._connection.outlet, self._hub.history
        while cursor < (history.last_event_id if until is None else until):
            async with self._turn():
                # Looked up when it is this client's turn, not before: while a thousand wait for
                # theirs, events are published, and nobody would ever have caught up.
                page = history.recent(cursor)
                if page is not None:
                    page = page.part(cursor, until, carried)
                    for frames, last_id, count in page.chunks(self._selection):
                        outlet.write_nowait(frames, last_id)
                        metrics.events_streamed.inc(count)
                    cursor = page.through
            if page is None:
                cursor = await self._send_logged(cursor, until, carried)

    async def _send_logged(self, cursor: int, until: int | None, carried: Selection | None) -> int:
        """Send what is selected of one page of the log; return the id to go on from."""
        page = await self._hub.history.page(cursor)
        await trio.lowlevel.checkpoint()  # a read cannot be cancelled
        if cursor + 1 < page.available_from:
            self._connection.outlet.write_nowait(gap_frame(cursor, page.available_from))
        page = page.part(cursor, until, carried)
        while (sent_through := await self._send_page(page)) < page.through:
            page = page.part(sent_through)
        return page.through

    async def _send_page(self, page: Page) -> int:
        """Send what is selected of a page until the selection changes; return how far it got."""
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
        """Wait until it is this client's turn to be written to, and nothing waits before that."""
        outlet = self._connection.outlet
        while True:
            await outlet.drained()
            async with self._turns:
                # An answer or a ping may wait again; what is written may not fit behind it.
                if outlet.is_drained:
                    yield
                    return

    async def _reach(self, since: int, left_at: int) -> int:
        """Wait for an id that this bridge has not come to; return the id to go on from.

        Another bridge may be ahead by a moment. If nobody is, the id is of another database, or of
        this one before it was restored from a backup.
        """
        _, newest_id = await self._hub.history.bounds()
        await trio.lowlevel.checkpoint()  # the session may have ended meanwhile
        if since <= newest_id:
            await self._hub.history.reached(since)
            self._carried_from = since
            return since
        self._connection.outlet.write_nowait(gap_frame(since, left_at + 1))
        return left_at


_HANDLERS: Final[dict[str, Callable[[Session, Message], Message | None]]] = {
    "ping": Session._ping,
    "auth": Session._auth,
    "subscribe": Session._subscribe,
    "unsubscribe": Session._unsubscribe,
    "resume": Session._resume,
}


def _patterns(message: Message) -> frozenset[str]:
    try:
        return checked_patterns(message.get("events"))
    except PatternError as error:
        raise RefusedMessageError("bad_events", str(error)) from None


def gap_frame(since: int, available_from: int) -> bytes:
    """Return the message that what came after one id and before another cannot be sent."""
    return _framed({"type": "gap", "since": since, "available_from": available_from})


def _refused(refusal: RefusedMessageError) -> bytes:
    return _framed({"type": "error", "code": refusal.code, "message": str(refusal)})


def _framed(message: Message) -> bytes:
    return text_frame(json.dumps(message))
