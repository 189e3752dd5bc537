"""The stream as a whole: who is let in, who is sent away, and when."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog
import trio

from bridge.access.authenticator import TooManyFailuresError
from bridge.access.proxies import client_address
from bridge.access.scopes import EVENTS_READ
from bridge.access.tokens import Grant, Source, TokenKey
from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.live.connection import (
    CLOSE_SECONDS,
    GOING_AWAY,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    Connection,
    ConnectionLimits,
    serve_connection,
)
from bridge.live.frames import PING_FRAME, close_frame, text_frame
from bridge.live.handshake import Opening, read_opening
from bridge.live.hub import Hub
from bridge.live.session import CONCURRENT_REPLAYS, Session, gap_frame
from bridge.telemetry import metrics

log = structlog.get_logger()

#: How long a client may take for the message with its token: it has nothing to wait for, and one
#: that knows of no such message, and forgot the token, learns that soon.
TOKEN_SECONDS: Final = 4.0
#: How often tokens are looked up again. One that was revoked, or has expired, is noticed by then.
TOKENS_SECONDS: Final = 2.0
#: A client of which nothing was heard for so many ping intervals, and which took nothing of what
#: waits for it, has left two pings unanswered.
SILENT_INTERVALS: Final = 2.5

_SHUTTING_DOWN: Final = (GOING_AWAY, "the bridge is shutting down")


class Tokens(Protocol):
    """Knows the tokens: ``bridge.token_store.Authenticator``."""

    async def authenticate(self, token: str, address: str) -> Grant | None:
        """Return what a token allows that somebody shows; None if it is not valid."""

    async def use_ticket(self, ticket: str, address: str) -> Grant | None:
        """Return what the token of a ticket allows; None if either is not valid."""

    async def grants(self, keys: Iterable[TokenKey]) -> list[Grant]:
        """Return what those of some tokens allow that are still valid."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What the stream takes.

    Attributes:
        connection: of each client.
        clients: most clients in all; as many more may be about to send their tokens.
        clients_per_token: most clients with one token.
        ping_seconds: how often each client is pinged.
        idle_seconds: how long a client may say nothing; None: for ever.
        origins: of pages that may connect; empty: any.
    """

    connection: ConnectionLimits = field(default_factory=ConnectionLimits)
    clients: int = 10_000
    clients_per_token: int = 10_000
    ping_seconds: float = 20.0
    idle_seconds: float | None = None
    origins: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class _Client:
    connection: Connection
    ping_at: float
    session: Session | None = None

    @property
    def grant(self) -> Grant | None:
        """What its token allows; None until it is let in."""
        return self.connection.grant


class LiveStream:
    """Serves WebSocket clients.

    Args:
        hub: where events come from.
        tokens: knows who may listen.
        access_log: whether it is logged who comes and goes.
    """

    def __init__(
        self, hub: Hub, tokens: Tokens, limits: StreamLimits, *, access_log: bool = False
    ) -> None:
        self._hub = hub
        self._tokens = tokens
        self._limits = limits
        self._access_log = access_log
        self._turns = trio.Semaphore(CONCURRENT_REPLAYS)
        self._clients: set[_Client] = set()
        self._by_token: dict[TokenKey, set[_Client]] = {}
        self._last_left = trio.Event()
        self._stopping = False

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return len(self._clients)

    def buffered_bytes(self) -> Iterator[int]:
        """Yield, for each client, what waits in memory to be sent."""
        return (client.connection.outlet.waiting_bytes for client in self._clients)

    @property
    def _admitted(self) -> int:
        return sum(map(len, self._by_token.values()))

    async def serve(self, stream: trio.SocketStream, received: bytes = b"") -> None:
        """Serve one accepted connection until it ends. Nothing that the client does gets out.

        Args:
            received: what whoever accepted it has read from the stream already.
        """
        await serve_connection(
            stream,
            self._converse,
            limits=self._limits.connection,
            farewell=_too_slow,
            received=received,
        )

    async def run(self) -> None:
        """Look after the clients for ever: ping them, and see that their tokens are valid."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ping_clients)
            # One table that cannot be read, or is locked, keeps nobody whose token is in the other.
            nursery.start_soon(self._look_up_tokens, "bridge")
            nursery.start_soon(self._look_up_tokens, "bot")

    def start_over(self, last_event_id: int) -> None:
        """Tell all clients that the log has lost what they were sent, and have them come again.

        Args:
            last_event_id: the newest event that the log has.
        """
        gap = gap_frame(self._hub.last_event_id, last_event_id + 1)
        self._hub.start_over(last_event_id)
        for client in self._clients:
            if client.session is not None:
                client.connection.outlet.write_nowait(gap)
                client.connection.count_dropped("log_went_back")
            client.connection.send_away(GOING_AWAY, "the database went back in time")

    async def stop(self) -> None:
        """Send every client away, and wait a moment for them to go."""
        self._stopping = True
        for client in self._clients:
            client.connection.count_dropped("stopping")
            client.connection.send_away(*_SHUTTING_DOWN)
        if self._clients:
            with trio.move_on_after(CLOSE_SECONDS):
                await self._last_left.wait()

    async def _converse(self, connection: Connection) -> None:
        if self._stopping:  # it was accepted before, and took its time
            connection.send_away(*_SHUTTING_DOWN)
            return
        now = trio.current_time()
        # Not all at once, though all may have come at once.
        client = _Client(connection, now + random.uniform(0.5, 1) * self._limits.ping_seconds)  # noqa: S311
        self._clients.add(client)
        metrics.clients.inc()
        try:
            request = connection.request
            opening = read_opening(request.path, request.headers)
            refusal = self._refusal(opening) or await self._admit(client, opening)
            if refusal is not None:
                connection.send_away(*refusal)
                return
            assert client.grant is not None  # noqa: S101 - else it is refused
            client.session = Session(
                connection, self._hub, self._turns, visible=client.grant.events
            )
            await client.session.run(opening)
        finally:
            self._forget(client)

    def _refusal(self, opening: Opening) -> tuple[int, str] | None:
        """Return close code and reason for a client whose token does not matter; else None."""
        # Only browsers send an origin, and no page can make them send another one.
        allowed = self._limits.origins
        if allowed and opening.origin is not None and opening.origin.lower() not in allowed:
            return POLICY_VIOLATION, "Origin not allowed"
        return None

    async def _admit(self, client: _Client, opening: Opening) -> tuple[int, str] | None:
        """Return close code and reason for a client that may not listen, None for one that may."""
        token = opening.token
        if token is None and opening.ticket is None:
            # Counted apart: who has no token keeps nobody out who has one.
            if len(self._clients) - self._admitted > self._limits.clients:
                return TRY_AGAIN_LATER, "Too many connections"
            with trio.move_on_after(min(TOKEN_SECONDS, self._limits.connection.handshake_seconds)):
                token = _token_of_message(await client.connection.websocket.get_message())
        if not token and opening.ticket is None:
            return POLICY_VIOLATION, "Missing API token"
        address = client_address(
            client.connection.peer, opening.forwarded_for, self._limits.connection.proxies
        )
        try:
            if token:
                grant = await self._tokens.authenticate(token, address)
            else:
                grant = await self._tokens.use_ticket(opening.ticket or "", address)
        except TooManyFailuresError:
            return TRY_AGAIN_LATER, "Too many failed attempts, try again later"
        except (DatabaseUnavailable, DatabaseError):
            return TRY_AGAIN_LATER, "Database unavailable, connect again"
        if grant is None:
            what = "API token" if token else "ticket"
            return POLICY_VIOLATION, f"Invalid or expired {what}"
        if not grant.allows(EVENTS_READ):
            return POLICY_VIOLATION, f"This API token does not have the scope {EVENTS_READ}"
        if self._admitted >= self._limits.clients:
            return TRY_AGAIN_LATER, "Too many connections"
        of_token = self._by_token.setdefault(grant.key, set())
        if len(of_token) >= self._limits.clients_per_token:
            return TRY_AGAIN_LATER, "Too many connections with this API token"
        client.connection.grant = grant
        of_token.add(client)
        metrics.clients_connected.inc()
        if self._access_log:
            log.info("client_connected", **client.connection.about())
        return None

    def _forget(self, client: _Client) -> None:
        metrics.clients.dec()
        self._clients.discard(client)
        if client.grant is not None:
            if self._access_log:
                log.info("client_left", **client.connection.about())
            of_token = self._by_token[client.grant.key]
            of_token.discard(client)
            if not of_token:
                del self._by_token[client.grant.key]
        if not self._clients:
            self._last_left.set()
            self._last_left = trio.Event()

    async def _ping_clients(self) -> None:
        """Ping everybody now and then; drop who answers nothing, send away who is idle."""
        limits = self._limits
        while True:
            await trio.sleep(min(1.0, limits.ping_seconds / 10))
            now = trio.current_time()
            for client in self._clients:
                if client.connection.is_ending:
                    continue  # its token is being looked up, which cannot be cancelled
                outlet = client.connection.outlet
                heard_at = max(client.connection.intake.heard_at, outlet.took_at)
                if now - heard_at > SILENT_INTERVALS * limits.ping_seconds:
                    client.connection.count_dropped("silent", sent_through=outlet.sent_through)
                    client.connection.drop()
                elif now >= client.ping_at:
                    client.ping_at = now + limits.ping_seconds
                    outlet.write_nowait(PING_FRAME)
                if (
                    limits.idle_seconds is not None
                    and client.session is not None
                    and now - client.session.spoke_at > limits.idle_seconds
                ):
                    # Not with 1008, after which no client comes back: a laptop may have slept.
                    reason = f"Idle: no message for {limits.idle_seconds:g} s"
                    client.connection.count_dropped("idle")
                    client.connection.send_away(GOING_AWAY, reason)

    async def _look_up_tokens(self, source: Source) -> None:
        """Send away whose token is not valid any more, or not for the same events.

        Args:
            source: of the tokens that are looked up. Not that of the settings, which do not change.
        """
        while True:
            await trio.sleep(TOKENS_SECONDS)
            keys = [key for key in self._by_token if key[0] == source]
            if not keys:
                continue
            try:
                grants = await self._tokens.grants(keys)
            except (DatabaseUnavailable, DatabaseError):
                continue  # They were valid; others are not let in meanwhile.
            self._compare(keys, grants)

    def _compare(self, keys: Iterable[TokenKey], grants: Iterable[Grant]) -> None:
        """Send away the clients of some tokens, by what these allow now."""
        visible = {each.key: each.events for each in grants if each.allows(EVENTS_READ)}
        for key in keys:
            for client in self._by_token.get(key, ()):
                if key not in visible:
                    client.connection.count_dropped("revoked")
                    client.connection.send_away(POLICY_VIOLATION, "API token revoked or expired")
                elif client.grant is not None and client.grant.events != visible[key]:
                    client.connection.count_dropped("changed")
                    client.connection.send_away(GOING_AWAY, "API token changed, connect again")


def _token_of_message(message: str | bytes) -> str | None:
    """Return the token of ``{"type": "auth", "token": …}``; None if it is another message."""
    try:
        parsed = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict) or parsed.get("type") != "auth":
        return None
    token = parsed.get("token")
    return token if isinstance(token, str) else None


def _too_slow(sent_through: int | None) -> bytes:
    message: dict[str, object] = {
        "type": "error",
        "code": "too_slow",
        "message": "reading too slowly: connect again and resume",
    }
    reason = "too slow"
    if sent_through is not None:
        message["since"] = sent_through
        reason += f": resume with since={sent_through}"
    return text_frame(json.dumps(message)) + close_frame(TRY_AGAIN_LATER, reason)
