"""The client: follows the stream of a bridge, whatever becomes of the connection.

What it hands on is in the order of ids, each event once. After a loss it connects again and has
the bridge send what came meanwhile; what the bridge cannot send any more it hands on as a gap.
"""

from __future__ import annotations

import os
import random
import re
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)
from wsproto.utilities import ProtocolError

from bridge.events import parse_payload
from bridge.tasks import first_error

#: How long a connection may take to be made, and then its handshake up to the welcome.
CONNECT_SECONDS: Final = 10.0
#: Between two tries to connect: from the first of these, doubling, to the second.
RETRY_SECONDS: Final = (0.2, 5.0)
#: A bridge pings every 20 s. One of which nothing comes for so long has vanished.
SILENCE_SECONDS: Final = 60.0
#: How often to say something: a bridge may send away who does not.
SPEAK_SECONDS: Final = 30.0
#: The largest event that is taken. With what waits behind it, all that a slow reader costs.
MESSAGE_BYTES: Final = 64 * 1024 * 1024
RECEIVE_BYTES: Final = 64 * 1024

# Close codes.
POLICY_VIOLATION: Final = 1008
MESSAGE_TOO_BIG: Final = 1009

_LOSSES = (
    ConnectionClosed,
    HandshakeError,
    ProtocolError,
    trio.BrokenResourceError,
    trio.TooSlowError,
    OSError,
)
# An event whose payload is nested too deep to be parsed, as the bridge writes it.
_OUTLINE = re.compile(
    r'\{"type":"([^"\\]+)","payload":.*,"timestamp":"([^"\\]+)","id":(\d+)\}', re.DOTALL
)


class AddressError(ValueError):
    """A text is no address of a stream. The message says why, without the text."""


class TailError(Exception):
    """The stream cannot be followed. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a bridge serves its stream."""

    host: str
    port: int
    path: str = "/ws"
    tls: bool = False

    def __str__(self) -> str:
        return f"{'wss' if self.tls else 'ws'}://{self.netloc}{self.path}"

    @property
    def netloc(self) -> str:
        """Host and port, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """An event, and the message that it came as.

    Attributes:
        payload: parsed.
    """

    id: int
    event_type: str
    timestamp: str
    payload: Any
    text: str


@dataclass(frozen=True, slots=True)
class Gap:
    """What came between two ids is not in the log any more; and the message that says so."""

    since: int
    available_from: int
    text: str


@dataclass(frozen=True, slots=True)
class Notice:
    """What happens to the connection, in words."""

    line: str


Message = StreamEvent | Gap | Notice


def parse_address(url: str) -> Address:
    """Read ``ws://host:port/path`` or ``wss://…``; without a path it is ``/ws``.

    Raises:
        AddressError: it is something else, or holds what would have to be kept secret.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise AddressError("is not a URL such as ws://127.0.0.1:8080/ws") from None
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise AddressError("is not a URL such as ws://127.0.0.1:8080/ws")
    if parts.query or parts.username or parts.password or parts.fragment:
        raise AddressError("ends with the path: the token is read from BRIDGE_TOKEN")
    if not re.fullmatch("[!-~]+", url):
        raise AddressError("has characters that no URL has")
    tls = parts.scheme == "wss"
    path = parts.path if parts.path not in ("", "/") else "/ws"
    return Address(parts.hostname, (443 if tls else 80) if port is None else port, path, tls)


class Follower:
    """Follows one stream.

    Args:
        token: sent in a header.
        patterns: of types; none: all.
        since: the id of the last event that is known; None: only what is new.
        silence_seconds: see ``SILENCE_SECONDS``.
    """

    def __init__(
        self,
        address: Address,
        token: str,
        *,
        patterns: Iterable[str] = (),
        since: int | None = None,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._address = address
        self._token = token
        self._patterns = tuple(patterns)
        self._since = since
        self._silence_seconds = silence_seconds
        self._ever_connected = False
        self._connected = False
        # Whether somebody was there at the last try, and said no.
        self._answered = False

    async def run(self, messages: trio.MemorySendChannel[Message]) -> None:
        """Follow until cancelled.

        Args:
            messages: takes what comes. While nobody receives from it, nothing is read from the
                connection, either.

        Raises:
            TailError: the first connection failed, or the bridge refuses to go on.
        """
        pause = RETRY_SECONDS[0]
        while True:
            loss = await self._follow_once(messages)
            if not self._ever_connected:
                hint = (
                    "; is the bridge running there? Start it with `pgbridge run`, or set "
                    "BRIDGE_HOST and BRIDGE_PORT, or --url"
                )
                raise TailError(
                    f"cannot follow {self._address}: {loss}{'' if self._answered else hint}"
                )
            if self._connected:
                self._connected = False
                pause = RETRY_SECONDS[0]
                await messages.send(Notice(f"connection lost ({loss}); connecting again"))
            await trio.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311
            pause = min(2 * pause, RETRY_SECONDS[1])

    async def _follow_once(self, messages: trio.MemorySendChannel[Message]) -> str:
        """Follow over one connection; return how it was lost."""
        error: BaseException | None = None
        refusal: BaseException | None = None
        try:
            await self._converse(messages)
        except* TailError as errors:
            # Not raising in here: some Pythons wrap what is raised in an except* into a group.
            refusal = first_error(errors)
        except* _LOSSES as errors:
            error = first_error(errors)
        self._answered = isinstance(error, ConnectionClosed | ConnectionRejected)
        if refusal is None and isinstance(error, ConnectionClosed):
            refusal = self._refusal(error)
        if refusal is not None:
            raise refusal
        return _loss(error)

    def _refusal(self, closed: ConnectionClosed) -> TailError | None:
        """Return what a close means for which connecting again is no help; else None."""
        if closed.reason is None:
            return None
        if closed.reason.code == POLICY_VIOLATION:
            return TailError(f"{self._address} refuses: {closed.reason.reason}")
        if closed.reason.code == MESSAGE_TOO_BIG:
            return TailError(
                f"an event after {self._since} is larger than {MESSAGE_BYTES >> 20} MiB; "
                "go on behind it with --since"
            )
        return None

    async def _converse(self, messages: trio.MemorySendChannel[Message]) -> None:
        with trio.fail_after(CONNECT_SECONDS):
            stream = await self._open()
        # On a stream of our own: trio-websocket's client leaves its socket open when it is
        # cancelled.
        async with stream, trio.open_nursery() as nursery:
            with trio.fail_after(CONNECT_SECONDS):
                websocket = await self._handshake(nursery, stream)
                welcome = await websocket.get_message()
            await messages.send(self._welcomed(welcome))
            nursery.start_soon(_speak, websocket)
            while True:
                await self._take(await websocket.get_message(), messages)

    async def _open(self) -> trio.abc.Stream:
        address = self._address
        if not address.tls:
            return await trio.open_tcp_stream(address.host, address.port)
        stream = await trio.open_ssl_over_tcp_stream(
            address.host,
            address.port,
            ssl_context=ssl.create_default_context(),
            https_compatible=True,
        )
        try:
            # Now: what is wrong with the certificate would not come out of the other handshake.
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def _handshake(
        self, nursery: trio.Nursery, stream: trio.abc.Stream
    ) -> WebSocketConnection:
        target = self._address.path
        query = [f"events={','.join(self._patterns)}"] if self._patterns else []
        query += [f"since={self._since}"] if self._since is not None else []
        if query:
            target += "?" + "&".join(query)
        websocket: WebSocketConnection | None = None
        # trio-websocket waits for ever for the answer of a server that hangs up instead.
        with trio.CancelScope() as waiting:
            websocket = await wrap_client_stream(
                nursery,
                _WatchedStream(stream, self._silence_seconds, waiting),  # type: ignore[arg-type]
                self._address.netloc,
                target,
                extra_headers=[(b"Authorization", f"Bearer {self._token}".encode("ascii"))],
                max_message_size=MESSAGE_BYTES,
                receive_buffer_size=RECEIVE_BYTES,
            )
        if websocket is None:
            raise trio.BrokenResourceError("it hung up")
        return websocket

    def _welcomed(self, text: str | bytes) -> Notice:
        match _parsed(text):
            case {"type": "connection", "last_event_id": int(last_event_id)}:
                again, self._ever_connected, self._connected = self._ever_connected, True, True
            case _:
                raise TailError(f"{self._address} is not the stream of a pgbridge")
        if self._since is None:
            self._since = last_event_id
        if again:
            return Notice(f"connected again; following after event {self._since}")
        return Notice(f"following {self._address} after event {self._since}")

    async def _take(self, text: str | bytes, messages: trio.MemorySendChannel[Message]) -> None:
        since = self._since or 0
        match _parsed(text):
            # First: an event's type may be any word, and nothing else has a payload.
            case {
                "payload": payload,
                "type": str(event_type),
                "timestamp": str(timestamp),
                "id": int(event_id),
            }:
                if event_id > since:
                    event = StreamEvent(event_id, event_type, timestamp, payload, str(text))
                    await messages.send(event)
                    self._since = event_id
            case {"type": "resumed", "to": int(through)}:
                self._since = max(since, through)
            case {"type": "gap", "since": int(gap_since), "available_from": int(available_from)}:
                await messages.send(Gap(gap_since, available_from, str(text)))
                # Backwards, too: the ids of a database that was restored are given out again.
                self._since = available_from - 1
            case {"type": "error", "code": str(code), "message": str(reason)}:
                # One that is too slow is sent away, and goes on from where it is.
                if code != "too_slow":
                    raise TailError(f"{self._address} refuses: {reason}")


class _WatchedStream(trio.abc.Stream):
    """A connection on which silence is an end.

    Only while somebody reads: when nobody takes what comes, there is no telling.

    Args:
        waiting: cancelled at the end.
    """

    def __init__(
        self, stream: trio.abc.Stream, silence_seconds: float, waiting: trio.CancelScope
    ) -> None:
        self._stream = stream
        self._silence_seconds = silence_seconds
        self._waiting = waiting

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data: bytes | bytearray = b""
        try:
            with trio.move_on_after(self._silence_seconds):
                data = await self._stream.receive_some(max_bytes)
        finally:
            if not data:
                self._waiting.cancel()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _speak(websocket: WebSocketConnection) -> None:
    while True:
        await trio.sleep(SPEAK_SECONDS)
        try:
            await websocket.send_message('{"type": "ping"}')
        except ConnectionClosed:
            return  # whoever reads learns why


def _parsed(text: str | bytes) -> Any:
    try:
        return parse_payload(text if isinstance(text, str) else text.decode())
    except RecursionError:
        outline = _OUTLINE.fullmatch(str(text))
        if outline is None:
            return None
        event_type, timestamp, event_id = outline.groups()
        return {
            "type": event_type,
            "payload": "nested too deep to be shown",
            "timestamp": timestamp,
            "id": int(event_id),
        }
    except ValueError:
        return None


def _loss(error: BaseException | None) -> str:
    """Return in a few words how a connection was lost, or not made."""
    if isinstance(error, ConnectionClosed):
        reason = error.reason
        return (reason and reason.reason) or "the bridge is gone"
    if isinstance(error, ConnectionRejected):
        return f"it answers HTTP {error.status_code}"
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {CONNECT_SECONDS:g} s"
    while error is not None and error.__cause__ is not None:
        error = first_error(error.__cause__)
    if isinstance(error, OSError) and error.errno is not None:
        # The text of trio's names the address once more; of names and certificates, only it tells.
        if not isinstance(error, socket.gaierror | ssl.SSLError):
            return os.strerror(error.errno)
        return str(error.strerror)
    return str(error)
