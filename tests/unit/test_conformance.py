"""What RFC 6455 asks of a server, on the echo, which goes through the same code as the stream.

The cases are those of the Autobahn|Testsuite, in short. A client that breaks the protocol gets a
close frame that says so, and in any case the connection ends in order.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from math import inf

import pytest
import structlog
import trio
import trio.testing

from bridge.access.tokens import Grant
from bridge.live import connection as connection_module
from bridge.live.connection import CLOSE_SECONDS, MOST_FRAGMENTS, ConnectionLimits
from tests.system.ws_echo import LIMITS, echo_front
from tests.unit.serving import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Said,
    Tokens,
    frame,
    said_by_server,
    serving,
)
from tests.unit.serving import LIMITS as SERVING_LIMITS

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: echo.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Client:
    """A client that sends what it likes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    async def send(self, data: bytes, piece_bytes: int | None = None) -> None:
        """Send, in pieces that the server reads one by one if a size is given."""
        size = piece_bytes or len(data)
        for start in range(0, len(data), size):
            await self.stream.send_all(data[start : start + size])
            if piece_bytes is not None:
                await trio.testing.wait_all_tasks_blocked()

    async def _more(self) -> bool:
        data = await self.stream.receive_some()
        self._received += data
        return bool(data)

    async def head(self) -> bytes:
        """Read the answer to the handshake."""
        while b"\r\n\r\n" not in self._received:
            assert await self._more(), f"hung up after {self._received!r}"
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        return head

    async def open(self) -> None:
        await self.send(HANDSHAKE)
        assert (await self.head()).startswith(b"HTTP/1.1 101 ")

    async def frames(self) -> list[Said]:
        """Read to the end, which must not be a reset."""
        while await self._more():
            pass
        frames, rest = said_by_server(self._received)
        assert rest == b"", "a frame that is cut off"
        return frames


class Echo:
    """A running echo."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: list[trio.SocketStream] = []
        self.ended = trio.Event()

    async def client(self) -> Client:
        stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        # Each piece is a segment.
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._streams.append(stream)
        return Client(stream)

    def close(self) -> None:
        for stream in self._streams:
            stream.socket.close()


@asynccontextmanager
async def echoing(limits: ConnectionLimits = LIMITS) -> AsyncIterator[Echo]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    echo = Echo(listeners[0].socket.getsockname()[1])

    front = echo_front(limits, ended=echo.ended)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front.accept, listeners, nursery)
            try:
                yield echo
            finally:
                nursery.cancel_scope.cancel()
                echo.close()


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


def said(*messages: bytes | str) -> list[Said]:
    """What the echo says to these messages."""
    return [
        Said(TEXT, each.encode()) if isinstance(each, str) else Said(BINARY, each)
        for each in messages
    ]


def odd(head: int, payload: bytes = b"") -> bytes:
    """A client's frame with any first byte."""
    return bytes([head]) + frame(0, payload)[1:]


def in_fragments(opcode: int, *payloads: bytes) -> bytes:
    last = len(payloads) - 1
    return b"".join(
        frame(CONTINUATION if number else opcode, payload, fin=number == last)
        for number, payload in enumerate(payloads)
    )


def masked(opcode: int, payload: bytes, mask: bytes) -> bytes:
    hidden = bytes(each ^ mask[place % 4] for place, each in enumerate(payload))
    return frame(opcode, b"")[:1] + bytes([0x80 | len(payload)]) + mask + hidden


#: What is sent, what is answered, and the code of the close frame behind it. A client that has not
#: broken the protocol then closes with 1000.
Case = tuple[str, bytes, Sequence[Said], int]


def sizes() -> Iterable[Case]:
    for size in (0, 1, 125, 126, 127, 128, 65535, 65536, 200_000):
        text = "*" * size
        yield f"a text of {size}", frame(TEXT, text.encode()), said(text), 1000
        yield f"binary of {size}", frame(BINARY, b"\xfe" * size), said(b"\xfe" * size), 1000
    yield "a mask", masked(TEXT, b"masked", b"\x01\xff\x80\x37"), said("masked"), 1000
    yield "no mask", b"\x81\x02hi", [], 1002
    yield "2 bytes of length for 125", b"\x81\xfe\x00\x7d\0\0\0\0" + b"x" * 125, [], 1002
    yield "8 bytes of length for 126", b"\x81\xff" + bytes(7) + b"\x7e\0\0\0\0", [], 1002
    yield "a length of 64 bits", b"\x82\xff\x80" + bytes(7) + b"\0\0\0\0", [], 1002


def pings() -> Iterable[Case]:
    for payload in (b"", b"Hello", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125):
        yield f"a ping of {len(payload)}", frame(PING, payload), [Said(PONG, payload)], 1000
    yield "a ping of 126", frame(PING, b"\xfe" * 126), [], 1002
    yield "a pong nobody asked for", frame(PONG, b"") + frame(PONG, b"unasked"), [], 1000
    pong_and_ping = frame(PONG, b"unasked") + frame(PING, b"p")
    yield "a pong and a ping", pong_and_ping, [Said(PONG, b"p")], 1000
    payloads = [b"payload %d" % number for number in range(10)]
    ten = b"".join(frame(PING, each) for each in payloads)
    yield "ten pings", ten, [Said(PONG, each) for each in payloads], 1000


def reserved() -> Iterable[Case]:
    hello = frame(TEXT, b"Hello")
    for bits in range(0x10, 0x80, 0x10):
        yield f"reserved bits {bits:#x}", hello + odd(0x81 | bits, b"no"), said("Hello"), 1002
    for opcode, name in ((BINARY, "binary"), (PING, "a ping"), (CLOSE, "a close")):
        yield f"a reserved bit in {name}", odd(0xC0 | opcode), [], 1002
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        for payload in (b"", b"payload"):
            name = f"reserved opcode {opcode} with {len(payload)}"
            yield name, hello + frame(opcode, payload) + frame(PING, b""), said("Hello"), 1002


def fragments() -> Iterable[Case]:
    ping, pong = frame(PING, b"p"), Said(PONG, b"p")
    first, last = frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"b")
    middle, binary = frame(CONTINUATION, b"c", fin=False), frame(BINARY, b"x", fin=False)
    yield "a ping in fragments", in_fragments(PING, b"a", b"b"), [], 1002
    yield "a pong in fragments", in_fragments(PONG, b"a", b"b"), [], 1002
    yield "a close in fragments", in_fragments(CLOSE, b"\x03", b"\xe8"), [], 1002
    yield "a text in two", first + last, said("ab"), 1000
    yield "a ping in between", first + ping + last, [pong, *said("ab")], 1000
    yield "a pong in between", first + frame(PONG, b"") + last, said("ab"), 1000
    five = first + ping + middle + ping + middle + ping + last
    yield "pings between all", five, [pong] * 3 + said("accb"), 1000
    yield "binary in two", binary + last, said(b"xb"), 1000
    yield "empty fragments", in_fragments(TEXT, b"", b"", b""), said(""), 1000
    yield "an empty one within", in_fragments(TEXT, b"a", b"", b"b"), said("ab"), 1000
    yield "two in a row", (first + last) * 2, said("ab", "ab"), 1000
    yield "a last one alone", last + ping, [], 1002
    yield "a middle one alone", middle + last, [], 1002
    yield "a last one after all", frame(TEXT, b"a") + last, said("a"), 1002
    yield "a text within a text", first + frame(TEXT, b"b"), [], 1002
    yield "binary within a text", first + frame(BINARY, b"b"), [], 1002
    yield "a first one twice", first + first, [], 1002
    yield "a close within a text", first + close(1000) + last, [], 1000
    long = "é" * 65536
    parts = [long.encode()[start : start + 1301] for start in range(0, 131072, 1301)]
    yield "a text in 101 fragments", in_fragments(TEXT, *parts), said(long), 1000


VALID = (
    "Hello-µ@ßöäüàá-UTF-8!!",
    "κόσμε",
    "\x00",
    "\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff",
    "\ud7ff\ue000\ufffd",
    "\ufdd0\ufffe\U0001fffe\U0010ffff",
    "🎉" * 50,
)
INVALID = (
    b"\x80", b"\xbf", b"\x80\xbf\x80", b"\xc0", b"\xfe", b"\xff", b"\xfe\xfe\xff\xff",
    b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf",
    b"\xfc\x80\x80\x80\x80\xaf", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf",
    b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80", b"\xf4\x90\x80\x80",
    b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
)  # fmt: skip
CUT_SHORT = (b"\xc2", b"\xe2\x82", b"\xf0\x9f\x8e", b"ok \xce")


def texts() -> Iterable[Case]:
    for number, text in enumerate(VALID):
        encoded = text.encode()
        yield f"UTF-8 {number}", frame(TEXT, encoded), said(text), 1000
        octets = [encoded[place : place + 1] for place in range(len(encoded))]
        yield f"UTF-8 {number} by octets", in_fragments(TEXT, *octets), said(text), 1000
    for bad in INVALID + CUT_SHORT:
        yield f"no UTF-8 {bad.hex()}", frame(TEXT, bad), [], 1007
        yield f"no UTF-8 {bad.hex()} within", in_fragments(TEXT, b"a", bad, b"b"), [], 1007
        yield f"binary {bad.hex()}", frame(BINARY, bad), said(bad), 1000


def closes() -> Iterable[Case]:
    hello = frame(TEXT, b"Hello")
    yield "a message and a close", hello + close(1000), said("Hello"), 1000
    many = [f"message {number}" for number in range(40)]
    sent = b"".join(frame(TEXT, each.encode()) for each in many)
    yield "messages and a close", sent + close(1000), said(*many), 1000
    yield "binary and a close", frame(BINARY, b"x") * 3 + close(1000), said(b"x", b"x", b"x"), 1000
    yield "two closes", close(1000) * 2, [], 1000
    yield "a ping after a close", close(1000) + frame(PING, b"late"), [], 1000
    yield "a text after a close", close(1000) + hello, [], 1000
    yield "garbage after a close", close(1000) + b"\xff" * 100_000, [], 1000
    yield "an unfinished text", hello + frame(TEXT, b"a", fin=False), said("Hello"), 1000
    yield "a close of one byte", frame(CLOSE, b"\x03"), [], 1002
    yield "a reason of 123", close(1000, b"*" * 123), [], 1000
    yield "a reason of 124", close(1000, b"*" * 124), [], 1002
    yield "a reason that is not UTF-8", close(1000, b"\xce\xba\xed\xa0\x80"), [], 1007
    for code in (*range(1000, 1004), *range(1007, 1014), 3000, 3999, 4000, 4999):
        yield f"close {code}", close(code, b"because"), [], code
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
        yield f"close {code}", close(code), [], 1002


CASES = [*sizes(), *pings(), *reserved(), *fragments(), *texts(), *closes()]


async def until_told(logs: Sequence[object]) -> None:
    """Wait for a line of the log: the client may know before."""
    with trio.fail_after(10):
        while not logs:  # noqa: ASYNC110 - nobody tells of it
            await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("sent", "answers", "code"), [pytest.param(*rest, id=name) for name, *rest in CASES]
)
async def test_a_server_answers_as_the_rfc_asks(
    sent: bytes, answers: list[Said], code: int
) -> None:
    async with echoing() as echo:
        # By the octet as far as that ends soon.
        for piece_bytes in (None, 1) if len(sent) < 300 else (None, 1400):
            client = await echo.client()
            await client.open()
            with structlog.testing.capture_logs() as logs:
                await client.send(sent + close(1000), piece_bytes)
                *frames, end = await client.frames()
            assert frames == answers
            assert end.opcode == CLOSE
            assert int.from_bytes(end.payload[:2], "big") == code
            broken = code in (1002, 1007) and sent != close(code, b"because")
            events = [(entry["event"], entry["reason"]) for entry in logs]
            assert events == [("client_dropped", "protocol")] * broken


async def test_a_close_without_a_code_is_answered_without_one() -> None:
    async with echoing() as echo:
        client = await echo.client()
        await client.open()
        await client.send(frame(CLOSE, b""))
        assert await client.frames() == [Said(CLOSE, b"")]


@pytest.mark.parametrize("bad", INVALID, ids=bytes.hex)
async def test_what_cannot_become_utf_8_any_more_is_refused_before_the_frame_is_whole(
    bad: bytes,
) -> None:
    async with echoing() as echo:
        for start in (
            frame(TEXT, b"valid", fin=False) + frame(CONTINUATION, bad, fin=False),
            frame(TEXT, bad + b"and what does not come")[: 6 + len(bad)],
        ):
            client = await echo.client()
            await client.open()
            await client.send(start)
            [end] = await client.frames()
            assert (end.opcode, end.payload[:2]) == (CLOSE, (1007).to_bytes(2, "big"))


OVERSIZE = b"x" * 2000


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(b"", id="nothing behind"),
        pytest.param(frame(PING, b""), id="a ping behind"),
        pytest.param(frame(TEXT, OVERSIZE), id="another behind"),
        pytest.param(close(1000), id="a close behind"),
        pytest.param(b"\xff" * 50_000, id="garbage behind"),
    ],
)
@pytest.mark.parametrize(
    "message",
    [
        pytest.param(frame(TEXT, OVERSIZE), id="text"),
        pytest.param(frame(BINARY, OVERSIZE), id="binary"),
        pytest.param(in_fragments(TEXT, *[b"x" * 100] * 20), id="fragments"),
        pytest.param(b"\x82\xff\x7f" + b"\xff" * 7 + b"\0\0\0\0" + OVERSIZE, id="a huge length"),
    ],
)
async def test_a_message_too_big_is_refused_with_1009_whatever_follows(
    message: bytes, behind: bytes
) -> None:
    async with echoing(ConnectionLimits(message_bytes=1000)) as echo:
        client = await echo.client()
        await client.open()
        with structlog.testing.capture_logs() as logs:
            await client.send(frame(TEXT, b"fits") + message + behind)
            *frames, end = await client.frames()
            await until_told(logs)
        assert frames == said("fits")
        assert (end.opcode, end.payload[:2]) == (CLOSE, (1009).to_bytes(2, "big"))
        assert [(each["event"], each["reason"]) for each in logs] == [("client_dropped", "too_big")]


async def test_fragments_are_bounded_though_they_are_empty() -> None:
    # A client that sends so many has to wait; not here.
    limits = ConnectionLimits(message_bytes=1000, frames_per_second=inf)
    async with echoing(limits) as echo:
        client = await echo.client()
        await client.open()
        some = in_fragments(TEXT, *[b""] * (MOST_FRAGMENTS - 1), b"end")
        await client.send(some + frame(TEXT, b"", fin=False))
        await client.send(frame(CONTINUATION, b"", fin=False) * MOST_FRAGMENTS * 2)
        *frames, end = await client.frames()
        assert frames == said("end")
        assert (end.opcode, end.payload[:2]) == (CLOSE, (1009).to_bytes(2, "big"))


# --- how the connection ends


async def test_a_client_that_sends_on_reads_the_close_frame_and_then_the_end() -> None:
    async with echoing() as echo:
        client = await echo.client()
        await client.open()
        # Far more than is read at once: unread input would make the kernel reset the connection.
        await client.send(frame(3, b"") + b"x" * 3_000_000)
        [end] = await client.frames()
        assert end.opcode == CLOSE
        await client.stream.aclose()
        await echo.ended.wait()


async def test_a_client_that_never_hangs_up_is_cut_when_its_time_is_up(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with echoing() as echo:
        client = await echo.client()
        await client.open()
        await client.send(frame(3, b""))
        [end] = await client.frames()
        assert end.opcode == CLOSE
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not echo.ended.is_set()
        mock_clock.jump(CLOSE_SECONDS)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert echo.ended.is_set()


async def test_a_client_that_does_not_read_is_cut_when_its_time_is_up(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with echoing() as echo:
        client = await echo.client()
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await client.open()
        await client.send(frame(BINARY, bytes(8_000_000)) + frame(3, b""))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not echo.ended.is_set()
        mock_clock.jump(CLOSE_SECONDS)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert echo.ended.is_set()


async def test_a_client_that_is_sent_away_may_ping_and_answer_late() -> None:
    async with serving() as server:
        client = Client(await server.raw())
        await client.send(HANDSHAKE.replace(b"/ws", b"/ws?token=wrong"))
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        with structlog.testing.capture_logs() as logs:
            [end] = await client.frames()
            assert end == Said(CLOSE, b"\x03\xf0Invalid or expired API token")
            await client.send(frame(PING, b"late") + close(1008))
            await client.stream.send_eof()
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert logs == []


async def test_a_crash_of_ours_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(connection_module.Connection, "_on_input", broken)
    async with echoing() as echo:
        client = await echo.client()
        await client.open()
        with structlog.testing.capture_logs() as logs:
            await client.send(frame(TEXT, b"Hello"))
            [end] = await client.frames()
        assert (end.opcode, end.payload[:2]) == (CLOSE, (1011).to_bytes(2, "big"))
        assert [entry["event"] for entry in logs] == ["session_crashed"]


# --- the handshake


def without(name: bytes) -> bytes:
    lines = HANDSHAKE.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(name + b":"))


def with_value(name: bytes, value: bytes) -> bytes:
    return without(name).replace(b"\r\n\r\n", b"\r\n%b: %b\r\n\r\n" % (name, value))


def also(header: bytes) -> bytes:
    return HANDSHAKE.replace(b"\r\n\r\n", b"\r\n" + header + b"\r\n\r\n")


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(HANDSHAKE, id="as usual"),
        pytest.param(HANDSHAKE.lower().replace(KEY.lower(), KEY).replace(
            b"get /ws http", b"GET /ws HTTP"), id="lower case"),
        pytest.param(HANDSHAKE.replace(b"Upgrade: websocket", b"UPGRADE: WebSocket"), id="upper"),
        pytest.param(with_value(b"Connection", b"keep-alive, Upgrade"), id="keep-alive, Upgrade"),
        pytest.param(also(b"X-Extra: 1\r\nCookie: a=\xd0\x98\r\nX-Extra: 2"), id="extra headers"),
        pytest.param(also(b"Sec-WebSocket-Protocol: chat, superchat"), id="subprotocols"),
        pytest.param(
            also(b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
            id="permessage-deflate",
        ),
        pytest.param(HANDSHAKE.replace(b"\r\n", b"\n"), id="bare line feeds"),
        pytest.param(HANDSHAKE.replace(b"/ws", b"/ws?" + b"x" * 8000), id="a long target"),
    ],
)  # fmt: skip
async def test_a_handshake_is_accepted_with_nothing_chosen_of_what_is_offered(
    request_: bytes,
) -> None:
    async with echoing() as echo:
        client = await echo.client()
        # The sample of the RFC, section 1.3, with a frame in the same segment.
        await client.send(request_ + frame(TEXT, b"right behind") + close(1000))
        answer = await client.head()
        status, *headers = answer.split(b"\r\n")
        assert status.startswith(b"HTTP/1.1 101 ")
        names = {
            name.lower(): value for name, _, value in (each.partition(b": ") for each in headers)
        }
        assert names == {
            b"upgrade": b"websocket",
            b"connection": b"Upgrade",
            b"sec-websocket-accept": b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        }
        assert (await client.frames())[0] == Said(TEXT, b"right behind")


async def test_a_handshake_may_come_octet_by_octet() -> None:
    async with serving() as server:
        client = Client(await server.raw())
        await client.send(HANDSHAKE.replace(b"/ws", b"/ws?token=right"), 1)
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")


async def test_messages_right_behind_the_handshake_are_answered_by_the_stream() -> None:
    async with serving() as server:
        client = Client(await server.raw())
        handshake = HANDSHAKE.replace(b"/ws", b"/ws?token=right")
        await client.send(handshake + frame(TEXT, b'{"type": "ping"}') + close(1000))
        await client.head()
        welcome, *rest = await client.frames()
        assert b"established" in welcome.payload
        assert rest == [Said(TEXT, b'{"type": "pong"}'), Said(CLOSE, b"\x03\xe8")]


class SlowTokens(Tokens):
    """Looked up when all that was sent has been read."""

    async def authenticate(self, token: str, address: str) -> Grant | None:
        await trio.testing.wait_all_tasks_blocked(0.01)
        return await super().authenticate(token, address)


async def test_what_is_said_while_a_token_is_looked_up_is_answered_before_the_close() -> None:
    async with serving(tokens=SlowTokens()) as server:
        client = Client(await server.raw())
        handshake = HANDSHAKE.replace(b"/ws", b"/ws?token=right")
        await client.send(handshake + frame(TEXT, b'{"type": "ping"}') * 3 + close(1000))
        await client.head()
        _, *pongs, end = await client.frames()
        assert pongs == [Said(TEXT, b'{"type": "pong"}')] * 3
        assert end == Said(CLOSE, b"\x03\xe8")


async def test_a_message_too_big_and_a_ping_while_a_token_is_looked_up_are_refused_with_1009() -> (
    None
):
    async with serving(tokens=SlowTokens()) as server:
        client = Client(await server.raw())
        handshake = HANDSHAKE.replace(b"/ws", b"/ws?token=right")
        oversize = frame(BINARY, bytes(SERVING_LIMITS.connection.message_bytes + 1))
        with structlog.testing.capture_logs() as logs:
            await client.send(handshake + oversize + frame(PING, b"") * 100)
            await client.head()
            [end] = await client.frames()
            await until_told(logs)
        assert (end.opcode, end.payload[:2]) == (CLOSE, (1009).to_bytes(2, "big"))
        assert [(each["event"], each["reason"]) for each in logs] == [("client_dropped", "too_big")]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(without(b"Sec-WebSocket-Key"), 400, id="no key"),
        pytest.param(with_value(b"Sec-WebSocket-Key", b""), 400, id="an empty key"),
        pytest.param(with_value(b"Sec-WebSocket-Key", b"c2hvcnQ="), 400, id="a short key"),
        pytest.param(with_value(b"Sec-WebSocket-Key", b"!" * 24), 400, id="a key not in base64"),
        pytest.param(also(b"Sec-WebSocket-Key: " + KEY), 400, id="two keys"),
        pytest.param(without(b"Sec-WebSocket-Version"), 400, id="no version"),
        pytest.param(with_value(b"Sec-WebSocket-Version", b"8"), 426, id="version 8"),
        pytest.param(with_value(b"Sec-WebSocket-Version", b"14"), 426, id="version 14"),
        pytest.param(without(b"Upgrade"), 400, id="no upgrade"),
        pytest.param(with_value(b"Upgrade", b"h2c"), 400, id="an upgrade to something else"),
        pytest.param(without(b"Connection"), 400, id="no connection"),
        pytest.param(with_value(b"Connection", b"keep-alive"), 400, id="only keep-alive"),
        pytest.param(without(b"Host"), 400, id="no host"),
        pytest.param(with_value(b"Host", b"\xff\xfe"), 400, id="a host that is none"),
        pytest.param(with_value(b"Host", b"xn--0"), 400, id="a host that is no name"),
        pytest.param(with_value(b"Connection", b"\xd0\x98"), 400, id="a connection not in ASCII"),
        pytest.param(also(b"Sec-WebSocket-Protocol: \xff"), 400, id="a protocol not in ASCII"),
        pytest.param(HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"), 400, id="HTTP/1.0"),
    ],
)
async def test_what_is_no_handshake_is_refused_and_the_connection_ended(
    request_: bytes, status: int
) -> None:
    async with echoing() as echo:
        client = await echo.client()
        with structlog.testing.capture_logs() as logs:
            await client.send(request_ + frame(TEXT, b"Hello"))
            answer = await client.head()
            assert await client.frames() == []
        assert int(answer.split()[1]) == status
        if status == 426:
            assert b"sec-websocket-version: 13" in answer.lower()
        assert all(entry["event"] == "handshake_refused" for entry in logs)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(without(b"Upgrade"), id="no upgrade"),
        pytest.param(with_value(b"Upgrade", b"h2c"), id="an upgrade to something else"),
        pytest.param(b"GET /ws HTTP/1.1\r\nHost: echo.test\r\n\r\n", id="a page"),
        pytest.param(with_value(b"Sec-WebSocket-Key", b"c2hvcnQ="), id="a short key"),
    ],
)
async def test_who_wants_no_websocket_is_told_that_the_connection_ends(request_: bytes) -> None:
    async with echoing() as echo:
        client = await echo.client()
        await client.send(request_)
        answer = await client.head()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"connection: close" in answer.lower()
        assert await client.frames() == []
