"""The stream as a whole: admits clients, pings them, and closes those that must leave."""

import json
import random
from collections.abc import Iterable, Iterator
from typing import Final

import structlog
import trio

from bridge.access.authenticator import Authenticator, TooManyFailuresError
from bridge.access.scopes import EVENTS_READ
from bridge.access.tokens import Grant, Source, TokenKey
from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.live.connection import (
    CLOSE_SECONDS,
    GOING_AWAY,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    Connection,
    StreamLimits,
    serve_connection,
)
from bridge.live.framing import PING_FRAME
from bridge.live.handshake import Opening
from bridge.live.hub import Hub
from bridge.live.replay import CONCURRENT_REPLAYS, gap_frame
from bridge.live.session import Session
from bridge.telemetry import metrics

log = structlog.get_logger()

#: How long a client may take to send its token in a message. A client that forgot its token learns
#: so after this time.
TOKEN_SECONDS: Final = 4.0
#: How often tokens are checked again, so that revoked and expired ones are noticed.
TOKENS_SECONDS: Final = 2.0
#: A client is dropped if it sent nothing and read nothing for this many ping intervals: by then it
#: has left two pings unanswered.
SILENT_INTERVALS: Final = 2.5

_SHUTTING_DOWN: Final = (GOING_AWAY, "the bridge is shutting down")


class LiveStream:
    """Serves WebSocket clients.

    Args:
        hub: the source of events.
        tokens: authenticates clients.
        access_log: whether to log each client that connects or leaves.
    """

    def __init__(
        self, hub: Hub, tokens: Authenticator, limits: StreamLimits, *, access_log: bool = False
    ) -> None:
        self._hub = hub
        self._tokens = tokens
        self._limits = limits
        self._access_log = access_log
        self._turns = trio.Semaphore(CONCURRENT_REPLAYS)
        self._clients: set[Connection] = set()
        self._by_token: dict[TokenKey, set[Connection]] = {}
        self._last_left = trio.Event()
        self._stopping = False

    @property
    def clients(self) -> int:
        """The number of connected clients."""
        return len(self._clients)

    def buffered_bytes(self) -> Iterator[int]:
        """Yield, for each client, the number of bytes that wait to be sent."""
        return (client.outlet.waiting_bytes for client in self._clients)

    @property
    def _admitted(self) -> int:
        return sum(map(len, self._by_token.values()))

    async def serve(self, stream: trio.SocketStream, received: bytes, head_bytes: int) -> None:
        """Serve one accepted connection until it ends. No error of the client is raised.

        Args:
            received: the bytes read from the stream so far.
            head_bytes: how many of them are the head of the request.
        """
        await serve_connection(stream, received, head_bytes, self._converse, limits=self._limits)

    async def run(self) -> None:
        """Ping clients and check their tokens, forever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ping_clients)
            # Separately: a locked or unreadable table must not delay checks of the other.
            nursery.start_soon(self._check_tokens, "bridge")
            nursery.start_soon(self._check_tokens, "bot")

    def start_over(self, last_event_id: int) -> None:
        """Report a gap to all clients and close them: the log lost events that they were sent.

        Args:
            last_event_id: the newest event in the log.
        """
        gap = gap_frame(self._hub.last_event_id, last_event_id + 1)
        self._hub.start_over(last_event_id)
        for client in self._clients:
            dropped = None
            if client.grant is not None:
                client.outlet.write_nowait(gap)
                dropped = "event_log_rewound"
            client.close(GOING_AWAY, "the database went back in time", dropped)

    async def stop(self) -> None:
        """Close all clients and wait a moment for them to leave."""
        self._stopping = True
        for client in self._clients:
            client.close(*_SHUTTING_DOWN, "stopping")
        if self._clients:
            with trio.move_on_after(CLOSE_SECONDS):
                await self._last_left.wait()

    async def _converse(self, client: Connection, opening: Opening) -> None:
        if self._stopping:  # its handshake took until now
            client.close(*_SHUTTING_DOWN)
            return
        # Spread the first pings: all clients may have connected at once.
        client.ping_at = trio.current_time() + random.uniform(0.5, 1) * self._limits.ping_seconds  # noqa: S311
        self._clients.add(client)
        metrics.clients.inc()
        try:
            refusal = await self._admit(client, opening)
            if refusal is not None:
                client.close(*refusal)
                return
            assert client.grant is not None  # noqa: S101 - set by _admit
            session = Session(client, self._hub, self._turns, client.grant.events)
            await session.run(opening)
        finally:
            self._forget(client)

    async def _admit(self, client: Connection, opening: Opening) -> tuple[int, str] | None:
        """Authenticate a client; return close code and reason if it is refused, else None."""
        # Only browsers send an origin, and pages cannot change it.
        allowed = self._limits.origins
        if allowed and opening.origin is not None and opening.origin.lower() not in allowed:
            return POLICY_VIOLATION, "Origin not allowed"
        token = opening.token
        if token is None and opening.ticket is None:
            # Counted apart, so that unauthenticated connections cannot crowd out clients.
            if len(self._clients) - self._admitted > self._limits.clients:
                return TRY_AGAIN_LATER, "Too many connections"
            with trio.move_on_after(min(TOKEN_SECONDS, self._limits.handshake_seconds)):
                token = _token_of_message(await client.websocket.get_message())
        if not token and opening.ticket is None:
            return POLICY_VIOLATION, "Missing API token"
        try:
            if token:
                grant = await self._tokens.authenticate(token, client.address)
            else:
                grant = await self._tokens.use_ticket(opening.ticket or "", client.address)
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
        client.grant = grant
        client.intake.admitted()
        of_token.add(client)
        metrics.clients_connected.inc()
        if self._access_log:
            log.info("client_connected", **client.about())
        return None

    def _forget(self, client: Connection) -> None:
        metrics.clients.dec()
        self._clients.discard(client)
        if client.grant is not None:
            if self._access_log:
                log.info("client_disconnected", **client.about())
            of_token = self._by_token[client.grant.key]
            of_token.discard(client)
            if not of_token:
                del self._by_token[client.grant.key]
        if not self._clients:
            self._last_left.set()
            self._last_left = trio.Event()

    async def _ping_clients(self) -> None:
        """Ping clients at intervals; drop silent clients and close idle ones."""
        limits = self._limits
        while True:
            await trio.sleep(min(1.0, limits.ping_seconds / 10))
            now = trio.current_time()
            for client in self._clients:
                if client.is_closing:
                    continue  # it waits for a statement, which cannot be cancelled
                outlet = client.outlet
                seen_at = max(client.intake.received_at, outlet.flushed_at)
                if now - seen_at > SILENT_INTERVALS * limits.ping_seconds:
                    client.drop("silent", last_event_id=outlet.sent_through)
                elif now >= client.ping_at:
                    client.ping_at = now + limits.ping_seconds
                    outlet.write_nowait(PING_FRAME)
                if (
                    limits.idle_seconds is not None
                    and client.grant is not None
                    and now - client.message_at > limits.idle_seconds
                ):
                    # Not 1008, which stops clients for good: a laptop may have slept.
                    text = f"Idle: no message for {limits.idle_seconds:g} s"
                    client.close(GOING_AWAY, text, "idle")

    async def _check_tokens(self, source: Source) -> None:
        """Close clients whose token became invalid or allows other events.

        Args:
            source: where the tokens are stored.
        """
        while True:
            await trio.sleep(TOKENS_SECONDS)
            keys = [key for key in self._by_token if key[0] == source]
            if not keys:
                continue
            try:
                grants = await self._tokens.grants(keys)
            except (DatabaseUnavailable, DatabaseError):
                continue  # keep the clients; new ones are refused meanwhile
            self._apply_grants(keys, grants)

    def _apply_grants(self, keys: Iterable[TokenKey], grants: Iterable[Grant]) -> None:
        """Close the clients of tokens that allow something else now."""
        visible = {each.key: each.events for each in grants if each.allows(EVENTS_READ)}
        for key in keys:
            for client in self._by_token.get(key, ()):
                if key not in visible:
                    client.close(POLICY_VIOLATION, "API token revoked or expired", "revoked")
                elif client.grant is not None and client.grant.events != visible[key]:
                    client.close(GOING_AWAY, "API token changed, connect again", "changed")


def _token_of_message(message: str | bytes) -> str | None:
    """Return the token of ``{"type": "auth", "token": …}``; None for any other message."""
    try:
        parsed = json.loads(message)
    except (ValueError, RecursionError):
        return None
    match parsed:
        case {"type": "auth", "token": str(token)}:
            return token
    return None
