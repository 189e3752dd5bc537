"""Sends one request to a receiver and reads the beginning of its answer.

Connections are kept for the next request to the same receiver. Redirects, cookies, proxies and the
environment mean nothing here. h11 speaks the protocol, on streams of trio: an HTTP client's pool
and its layers cost several times what the request itself does.
"""

from __future__ import annotations

import os
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from socket import AddressFamily
from typing import Self

import h11
import httpx
import structlog
import trio

from bridge.delivery.resolve import BlockedAddressError, UnresolvableError
from bridge.delivery.retry import Answer, Failure

log = structlog.get_logger()

#: How much of an answer's body is read and kept.
ANSWER_BYTES = 16 * 1024
#: How long an answer's status line and headers may be together.
ANSWER_HEAD_BYTES = 64 * 1024
#: How many interim answers (1xx) may come before the answer: each takes some CPU, and none is used.
INTERIM_ANSWERS = 32
CONNECT_SECONDS = 5.0
#: How long a connection is kept that nothing is sent over.
IDLE_SECONDS = 30.0

#: Returns the addresses of a host that may be connected to, with the family of each.
Resolve = Callable[[str, int], Awaitable[Sequence[tuple[AddressFamily, str]]]]

# Answers are kept as they were sent.
_COMMON_HEADERS = b"User-Agent: pgbridge\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"

_ANY_REQUEST = h11.Request(
    method="POST", target="/", headers=[("Host", ""), ("Content-Length", "0")]
)
_END = h11.EndOfMessage()
_NOTHING: Mapping[str, object] = {}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection leads: connections are shared by what has the same."""

    is_tls: bool
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, in the parts that a request needs."""

    origin: Origin
    #: The request's first lines, which are the same each time.
    head: bytes


@lru_cache(maxsize=4096)
def parse_url(url: str) -> Target:
    """Return the parts of an http or https URL.

    Raises:
        ValueError: nothing could be sent there.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(str(error)) from None
    if parsed.scheme not in ("http", "https"):
        raise ValueError("neither http nor https")
    if not parsed.host:
        raise ValueError("no host")
    if parsed.userinfo:
        raise ValueError("has a user or password")
    is_tls = parsed.scheme == "https"
    port = parsed.port or (443 if is_tls else 80)
    origin = Origin(is_tls, parsed.raw_host.decode("ascii"), port)
    # Both are ASCII, with everything else escaped.
    head = b"POST %b HTTP/1.1\r\nHost: %b\r\n" % (parsed.raw_path, parsed.netloc)
    return Target(origin, head + _COMMON_HEADERS)


class _Connection:
    """A connection to a receiver, for one request after another."""

    __slots__ = ("_is_plain", "_protocol", "_socket", "_stream", "idle_since", "origin")

    def __init__(
        self, origin: Origin, stream: trio.abc.Stream, socket: trio.socket.SocketType
    ) -> None:
        self.origin = origin
        self._stream = stream
        self._socket = socket
        self._is_plain = isinstance(stream, trio.SocketStream)
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=ANSWER_HEAD_BYTES)
        self.idle_since = 0.0

    async def send(self, request: bytes) -> None:
        # The protocol need only know that there was a request; ours are checked as they are made.
        self._protocol.send(_ANY_REQUEST)
        self._protocol.send(_END)
        if self._is_plain:
            # A request fits into the socket's buffer, as a rule: no need to wait for the loop.
            try:
                sent = os.write(self._socket.fileno(), request)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise trio.BrokenResourceError from error
            if sent == len(request):
                return
            request = request[sent:]
        await self._stream.send_all(request)

    async def next_event(self) -> object:
        """Return the next part of the answer.

        Raises:
            _HungUpError: the receiver closed the connection before a byte of the answer.
            h11.RemoteProtocolError, trio.BrokenResourceError
        """
        protocol = self._protocol
        while (event := protocol.next_event()) is h11.NEED_DATA:
            received = await self._receive()
            has_begun = protocol.their_state is not h11.SEND_RESPONSE or protocol.trailing_data[0]
            if not received and not has_begun:
                raise _HungUpError
            protocol.receive_data(received)
        return event

    async def _receive(self) -> bytes:
        if not self._is_plain:
            return bytes(await self._stream.receive_some(ANSWER_HEAD_BYTES))
        # An answer takes a while, so there is no use in looking for it before waiting.
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return os.read(self._socket.fileno(), ANSWER_HEAD_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error

    def reuse(self) -> bool:
        """Make ready for another request; False if this is not possible."""
        protocol = self._protocol
        if protocol.our_state is not h11.DONE or protocol.their_state is not h11.DONE:
            return False
        if protocol.trailing_data[0]:
            # It has answered more than it was asked: that would be taken for the next answer.
            return False
        protocol.start_next_cycle()
        return True

    @property
    def is_usable(self) -> bool:
        """Whether, as far as can be seen, the receiver still waits for another request."""
        # What there is to read while nothing was asked is the end, or something worse.
        return not self._socket.is_readable()

    def close(self) -> None:
        self._socket.close()


class _HungUpError(Exception):
    """The receiver closed the connection before a byte of its answer."""


class _Progress:
    """How far an attempt has come, for when it is cut off."""

    __slots__ = ("body", "phase", "retry_after", "status")

    def __init__(self) -> None:
        self.phase = Failure.TIMEOUT_DNS
        self.status: int | None = None
        self.retry_after: str | None = None
        self.body = bytearray()

    def answer(self, failure: Failure | None = None, error: str | None = None) -> Answer:
        text = _text(self.body) if self.status is not None else None
        return Answer(self.status, text, failure, error, self.retry_after)


class Transport:
    """Posts to receivers, for the time of a ``with``; then the connections are closed.

    Args:
        resolve: finds, and checks, the addresses of a host. Connections are made to nothing else.
        max_idle: connections that are kept without being used, at most; the oldest goes first.
    """

    def __init__(
        self, resolve: Resolve, *, max_idle: int, tls: ssl.SSLContext | None = None
    ) -> None:
        self._resolve = resolve
        self._max_idle = max_idle
        self._tls = tls or ssl.create_default_context()
        # The one that was used last is used next; the others grow old and go.
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._idle_count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_idle(older_than_seconds=0)

    async def post(
        self,
        url: str,
        *,
        headers: bytes,
        body: bytes,
        deadline_seconds: float,
        about: Mapping[str, object] = _NOTHING,
    ) -> Answer:
        """Post the body, and return what came back; never raises for what a receiver does.

        ``headers`` are whole lines, each with its end.
        ``deadline_seconds`` is for the whole attempt: a receiver that sends a byte now and then
        never runs into a time-out between two bytes.
        ``about`` is what a line of the log says of the delivery, should something be wrong here.
        """
        progress = _Progress()
        with trio.move_on_after(deadline_seconds) as attempt:
            try:
                target = parse_url(url)
                return await self._post(target, headers, body, progress)
            except Exception as error:
                kind, text = _describe(error, progress)
                if kind is Failure.INTERNAL:
                    log.exception("attempt_crashed", **about)
                return progress.answer(kind, text)
        assert attempt.cancelled_caught  # noqa: S101
        return progress.answer(
            progress.phase, f"{_PHASES[progress.phase]} within {deadline_seconds:g} s"
        )

    def close_idle(self, *, older_than_seconds: float = IDLE_SECONDS) -> None:
        """Close the connections that have been idle for so long. To be called now and then."""
        before = trio.current_time() - older_than_seconds
        for origin, connections in list(self._idle.items()):
            while connections and connections[0].idle_since <= before:
                connections.popleft().close()
                self._idle_count -= 1
            if not connections:
                del self._idle[origin]

    async def _post(
        self, target: Target, headers: bytes, body: bytes, progress: _Progress
    ) -> Answer:
        request = b"%bContent-Length: %d\r\n%b\r\n%b" % (target.head, len(body), headers, body)
        connection = self._take(target.origin)
        if connection is not None:
            try:
                return await self._exchange(connection, request, progress)
            except (_HungUpError, trio.BrokenResourceError):
                # It was closed while idle, as we wrote: this says nothing of the receiver. If it
                # did get the request, it knows the repetition by its webhook-id.
                if progress.status is not None:
                    raise
        connection = await self._connect(target.origin, progress)
        return await self._exchange(connection, request, progress)

    async def _exchange(
        self,
        connection: _Connection,
        request: bytes,
        progress: _Progress,
    ) -> Answer:
        is_kept = False
        interim_answers = 0
        try:
            progress.phase = Failure.TIMEOUT_SEND
            await connection.send(request)
            progress.phase = Failure.TIMEOUT_ANSWER
            while True:
                event = await connection.next_event()
                if isinstance(event, h11.Data):
                    progress.body += event.data
                    if len(progress.body) > ANSWER_BYTES:
                        break  # enough; the rest would have to be read before another request
                elif isinstance(event, h11.EndOfMessage):
                    is_kept = connection.reuse()
                    break
                elif isinstance(event, h11.Response):
                    progress.phase = Failure.TIMEOUT_BODY
                    progress.status = event.status_code
                    progress.retry_after = _retry_after(event)
                elif isinstance(event, h11.ConnectionClosed):
                    raise _HungUpError
                elif isinstance(event, h11.InformationalResponse):
                    interim_answers += 1
                    if interim_answers > INTERIM_ANSWERS:
                        raise h11.RemoteProtocolError("no end of interim answers")
            return progress.answer()
        finally:
            if is_kept:
                self._keep(connection)
            else:
                connection.close()

    async def _connect(self, origin: Origin, progress: _Progress) -> _Connection:
        progress.phase = Failure.TIMEOUT_DNS
        addresses = await self._resolve(origin.host, origin.port)
        progress.phase = Failure.TIMEOUT_CONNECT
        stream = await _open([address for _, address in addresses], origin.port)
        if not origin.is_tls:
            return _Connection(origin, stream, stream.socket)
        progress.phase = Failure.TIMEOUT_TLS
        try:
            encrypted = trio.SSLStream(
                stream,
                self._tls,
                # Certificates, and the name that the receiver is told, have no dot at the end.
                server_hostname=origin.host.removesuffix("."),
                https_compatible=True,
            )
            await encrypted.do_handshake()
        except BaseException:
            stream.socket.close()
            raise
        return _Connection(origin, encrypted, stream.socket)

    def _take(self, origin: Origin) -> _Connection | None:
        connections = self._idle.get(origin)
        while connections:
            connection = connections.pop()
            self._idle_count -= 1
            if connection.is_usable:
                return connection
            connection.close()
        return None

    def _keep(self, connection: _Connection) -> None:
        connection.idle_since = trio.current_time()
        self._idle.setdefault(connection.origin, deque()).append(connection)
        self._idle_count += 1
        if self._idle_count > self._max_idle:
            oldest = min(
                (each for each in self._idle.values() if each), key=lambda each: each[0].idle_since
            )
            oldest.popleft().close()
            self._idle_count -= 1


async def _open(addresses: Sequence[str], port: int) -> trio.SocketStream:
    """Connect to one of the addresses; each gets its share of the time.

    Raises:
        OSError: none can be reached.
    """
    deadline = trio.current_time() + CONNECT_SECONDS
    failure: OSError = OSError("the name has no address")
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        share = (deadline - trio.current_time()) / left
        try:
            with trio.fail_after(share):
                return await trio.open_tcp_stream(address, port)
        except trio.TooSlowError:
            failure = TimeoutError(f"no answer within {CONNECT_SECONDS:g} s")
        except OSError as error:
            failure = _only(error)
    raise failure


def _only(error: OSError) -> OSError:
    """Return what connecting to the one address has failed with: trio tells of several."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause if isinstance(cause, OSError) else error


_PHASES = {
    Failure.TIMEOUT_DNS: "the name was not resolved",
    Failure.TIMEOUT_CONNECT: "cannot connect: no answer",
    Failure.TIMEOUT_TLS: "no TLS connection",
    Failure.TIMEOUT_SEND: "the receiver did not take the request",
    Failure.TIMEOUT_ANSWER: "no answer",
    Failure.TIMEOUT_BODY: "no complete answer",
}


def _describe(error: Exception, progress: _Progress) -> tuple[Failure, str]:
    """Return what kind of failure it is, and say it in a few words for people."""
    reason = _reason(error)
    connecting = progress.phase is Failure.TIMEOUT_CONNECT
    match error:
        case BlockedAddressError():
            return Failure.BLOCKED, f"blocked: {reason}"
        case UnresolvableError():
            return Failure.DNS, f"cannot resolve the name: {reason}"
        case TimeoutError() if connecting:
            return Failure.TIMEOUT_CONNECT, f"cannot connect: {reason}"
        case OSError() if connecting:
            return (
                Failure.CONNECT,
                f"cannot connect: {os.strerror(error.errno) if error.errno else reason}",
            )
        case ValueError() if progress.phase is Failure.TIMEOUT_DNS:
            return Failure.URL, f"not a usable URL: {reason}"
        case trio.BrokenResourceError() | ssl.SSLError() if progress.phase is Failure.TIMEOUT_TLS:
            return Failure.TLS, f"no TLS connection: {reason}"
        case h11.RemoteProtocolError() if error.error_status_hint == 431:
            return Failure.OVERSIZE, f"the answer's head is longer than {ANSWER_HEAD_BYTES} bytes"
        case h11.RemoteProtocolError() if progress.status is not None and "closed" in reason:
            return Failure.LOST, f"connection lost: {reason}"
        case h11.ProtocolError():
            return Failure.PROTOCOL, f"not HTTP: {reason}"
        case _HungUpError():
            return Failure.LOST, "connection lost: closed without an answer"
        case trio.BrokenResourceError() | OSError():
            return Failure.LOST, f"connection lost: {reason}"
    return Failure.INTERNAL, reason


def _reason(failure: BaseException) -> str:
    """Return what a failure says or, where a cause says more, what that says."""
    cause: BaseException | None = failure
    said = ""
    while cause is not None:
        said = " ".join(str(cause).split()) or said
        cause = cause.__cause__ or (None if said else cause.__context__)
    return said[:500] or type(failure).__name__


def _retry_after(response: h11.Response) -> str | None:
    if response.status_code not in (429, 503):
        return None
    for name, value in response.headers:
        if name == b"retry-after":
            return value.decode("latin-1")
    return None


def _text(received: bytearray) -> str:
    """Return the answer as text that PostgreSQL takes: it has no zero character."""
    return bytes(received[:ANSWER_BYTES]).decode("utf-8", "replace").replace("\0", "\ufffd")
