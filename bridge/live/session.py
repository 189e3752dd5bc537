"""The protocol of ``/ws``: the messages of one authenticated client and their answers."""

import json
import re
from typing import Any, Final

import trio

from bridge.events import narrowed, outside
from bridge.live.connection import Connection
from bridge.live.framing import message_frame
from bridge.live.handshake import Opening
from bridge.live.hub import Hub
from bridge.live.replay import Replay
from bridge.live.selection import (
    EVERYTHING,
    MOST_PATTERNS,
    PatternError,
    Selection,
    checked_patterns,
)

#: Ids are bigint.
HIGHEST_ID: Final = 2**63 - 1

Message = dict[str, Any]


class RefusedMessageError(Exception):
    """A message that changes nothing. The client gets an error and stays connected."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def frame(self) -> bytes:
        """The error as the client gets it."""
        return message_frame({"type": "error", "code": self.code, "message": str(self)})


class Session:
    """The conversation with a client that was let in.

    Args:
        turns: see :class:`Replay`.
        visible: patterns of the events that the client's token may see.
    """

    __slots__ = (
        "_chosen",
        "_connection",
        "_hub",
        "_replay",
        "_subscribed",
        "_visible",
    )

    def __init__(
        self,
        connection: Connection,
        hub: Hub,
        turns: trio.Semaphore,
        visible: frozenset[str],
    ) -> None:
        self._connection = connection
        self._hub = hub
        self._visible = visible
        self._chosen = EVERYTHING.patterns
        # Whether the client chose these patterns itself.
        self._subscribed = False
        self._replay = Replay(connection, hub, turns, self._visible_part(self._chosen))

    async def run(self, opening: Opening) -> None:
        """Serve the client until it leaves.

        Raises:
            trio_websocket.ConnectionClosed: the client left.
        """
        connection, outlet = self._connection, self._connection.outlet
        try:
            connection.message_at = trio.current_time()
            outlet.write_nowait(self._welcome(), self._hub.last_event_id)
            self._replay.follow()
            self._begin(opening)
            while True:
                message = await connection.websocket.get_message()
                connection.message_at = trio.current_time()
                if answer := self._answer(message):
                    outlet.write_nowait(answer)
        finally:
            self._replay.stop()

    def _welcome(self) -> bytes:
        welcome: Message = {
            "type": "connection",
            "status": "connected",
            "message": "WebSocket connection established",
            "last_event_id": self._hub.last_event_id,
        }
        if self._visible != EVERYTHING.patterns:
            welcome["visible"] = sorted(self._visible)
        return message_frame(welcome)

    def _begin(self, opening: Opening) -> None:
        """Obey the opening request like messages, but answer only refusals."""
        since: str | int | None = opening.since
        # Not int() alone: it also accepts signs, underscores and digits of other alphabets.
        if opening.since is not None and re.fullmatch("[0-9]{1,19}", opening.since):
            since = int(opening.since)
        for obey, wish in ((self._subscribe, opening.events), (self._resume, since)):
            try:
                if wish is not None:
                    obey(wish)
            except RefusedMessageError as refusal:
                self._connection.outlet.write_nowait(refusal.frame)

    def _answer(self, text: str | bytes) -> bytes | None:
        try:
            answer = self._handle(text)
        except RefusedMessageError as refusal:
            return refusal.frame
        return None if answer is None else message_frame(answer)

    def _handle(self, text: str | bytes) -> Message | None:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            raise RefusedMessageError("bad_json", "not JSON") from None
        match message:
            case {"type": "ping"}:
                return {"type": "pong"}
            case {"type": "auth"}:
                raise RefusedMessageError(
                    "already_authenticated", "this connection has a valid token"
                )
            case {"type": "subscribe"}:
                return self._subscribe(message.get("events"))
            case {"type": "unsubscribe"}:
                return self._unsubscribe(message.get("events"))
            case {"type": "resume"}:
                self._resume(message.get("since"))
                return None
        raise RefusedMessageError("unknown_type", "unknown message type")

    def _subscribe(self, events: object) -> Message:
        patterns = _patterns(events)
        for pattern in outside(patterns, self._visible):
            raise RefusedMessageError("forbidden", f"this token does not see {pattern}")
        if not self._subscribed:
            self._choose(patterns)  # part of everything
        elif not patterns <= self._chosen:
            if len(patterns | self._chosen) > MOST_PATTERNS:
                raise RefusedMessageError("bad_events", f"more than {MOST_PATTERNS} patterns")
            self._choose(patterns | self._chosen, wider=True)
        return {"type": "subscribed", "events": sorted(self._chosen)}

    def _unsubscribe(self, events: object) -> Message:
        patterns = _patterns(events)
        if unknown := patterns - self._chosen:
            raise RefusedMessageError("not_subscribed", f"not subscribed to {min(unknown)}")
        self._choose(self._chosen - patterns)
        return {"type": "unsubscribed", "events": sorted(self._chosen)}

    def _resume(self, since: object) -> None:
        if not isinstance(since, int) or isinstance(since, bool) or not 0 <= since <= HIGHEST_ID:
            raise RefusedMessageError("bad_since", f"since must be an id, 0 to {HIGHEST_ID}")
        if self._replay.is_running:
            raise RefusedMessageError("resume_in_progress", "still sending what was missed")
        self._replay.start(since)

    def _choose(self, patterns: frozenset[str], *, wider: bool = False) -> None:
        self._subscribed = True
        self._chosen = patterns
        self._replay.select(self._visible_part(patterns), wider=wider)

    def _visible_part(self, patterns: frozenset[str]) -> Selection:
        return Selection(narrowed(patterns, self._visible))


def _patterns(events: object) -> frozenset[str]:
    try:
        return checked_patterns(events)
    except PatternError as error:
        raise RefusedMessageError("bad_events", str(error)) from None
