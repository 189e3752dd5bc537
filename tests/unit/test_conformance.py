"""Frames and messages are handled as RFC 6455 requires, tested on the echo.

The cases are a selection of the Autobahn|Testsuite's. A client that breaks the protocol gets a
close frame that says so, and every connection ends in order.
"""

import socket
from collections.abc import Iterable, Sequence
from math import inf

import pytest
import structlog
import trio
import trio.testing

from bridge.live import connection as connection_module
from bridge.live.connection import CLOSE_SECONDS, MOST_FRAGMENTS, StreamLimits
from tests.unit.echoing import (
    Client,
    close,
    closes_with,
    echoed,
    echoing,
    in_fragments,
)
from tests.unit.serving import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Sent,
    dropping,
    frame,
    serving,
)


def odd(head: int, payload: bytes = b"") -> bytes:
    """Return a client's frame with any first byte."""
    return bytes([head]) + frame(0, payload)[1:]


def masked(opcode: int, payload: bytes, mask: bytes) -> bytes:
    hidden = bytes(each ^ mask[place % 4] for place, each in enumerate(payload))
    return frame(opcode, b"")[:1] + bytes([0x80 | len(payload)]) + mask + hidden


#: A name, the bytes sent, the frames answered, and the code of the final close frame. After a valid
#: case the client closes with 1000.
Case = tuple[str, bytes, Sequence[Sent], int]


def sizes() -> Iterable[Case]:
    for size in (0, 1, 125, 126, 127, 128, 65535, 65536, 200_000):
        text = "*" * size
        yield f"a text of {size}", frame(TEXT, text.encode()), echoed(text), 1000
        yield f"binary of {size}", frame(BINARY, b"\xfe" * size), echoed(b"\xfe" * size), 1000
    yield "a mask", masked(TEXT, b"masked", b"\x01\xff\x80\x37"), echoed("masked"), 1000
    yield "no mask", b"\x81\x02hi", [], 1002
    yield "2 bytes of length for 125", b"\x81\xfe\x00\x7d\0\0\0\0" + b"x" * 125, [], 1002
    yield "8 bytes of length for 126", b"\x81\xff" + bytes(7) + b"\x7e\0\0\0\0", [], 1002
    yield "a length of 64 bits", b"\x82\xff\x80" + bytes(7) + b"\0\0\0\0", [], 1002


def pings() -> Iterable[Case]:
    for payload in (b"", b"Hello", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125):
        yield f"a ping of {len(payload)}", frame(PING, payload), [Sent(PONG, payload)], 1000
    yield "a ping of 126", frame(PING, b"\xfe" * 126), [], 1002
    yield "unsolicited pongs", frame(PONG, b"") + frame(PONG, b"x"), [], 1000
    pong_and_ping = frame(PONG, b"x") + frame(PING, b"p")
    yield "a pong and a ping", pong_and_ping, [Sent(PONG, b"p")], 1000
    payloads = [b"payload %d" % number for number in range(10)]
    ten = b"".join(frame(PING, each) for each in payloads)
    yield "ten pings", ten, [Sent(PONG, each) for each in payloads], 1000


def reserved() -> Iterable[Case]:
    hello = frame(TEXT, b"Hello")
    for bits in range(0x10, 0x80, 0x10):
        yield f"reserved bits {bits:#x}", hello + odd(0x81 | bits, b"no"), echoed("Hello"), 1002
    for opcode, name in ((BINARY, "binary"), (PING, "a ping"), (CLOSE, "a close")):
        yield f"a reserved bit in {name}", odd(0xC0 | opcode), [], 1002
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        for payload in (b"", b"payload"):
            name = f"reserved opcode {opcode} with {len(payload)}"
            yield name, hello + frame(opcode, payload) + frame(PING, b""), echoed("Hello"), 1002


def fragments() -> Iterable[Case]:
    ping, pong = frame(PING, b"p"), Sent(PONG, b"p")
    first, last = frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"b")
    middle, binary = frame(CONTINUATION, b"c", fin=False), frame(BINARY, b"x", fin=False)
    yield "a ping in fragments", in_fragments(PING, b"a", b"b"), [], 1002
    yield "a pong in fragments", in_fragments(PONG, b"a", b"b"), [], 1002
    yield "a close in fragments", in_fragments(CLOSE, b"\x03", b"\xe8"), [], 1002
    yield "a text in two", first + last, echoed("ab"), 1000
    yield "a ping between fragments", first + ping + last, [pong, *echoed("ab")], 1000
    yield "a pong between fragments", first + frame(PONG, b"") + last, echoed("ab"), 1000
    five = first + ping + middle + ping + middle + ping + last
    yield "pings between all fragments", five, [pong] * 3 + echoed("accb"), 1000
    yield "binary in two", binary + last, echoed(b"xb"), 1000
    yield "empty fragments", in_fragments(TEXT, b"", b"", b""), echoed(""), 1000
    yield "an empty fragment inside", in_fragments(TEXT, b"a", b"", b"b"), echoed("ab"), 1000
    yield "two fragmented texts", (first + last) * 2, echoed("ab", "ab"), 1000
    yield "a final fragment alone", last + ping, [], 1002
    yield "a middle fragment alone", middle + last, [], 1002
    yield "a final fragment after a text", frame(TEXT, b"a") + last, echoed("a"), 1002
    yield "a text within a text", first + frame(TEXT, b"b"), [], 1002
    yield "binary within a text", first + frame(BINARY, b"b"), [], 1002
    yield "a first fragment twice", first + first, [], 1002
    yield "a close within a text", first + close(1000) + last, [], 1000
    long = "é" * 65536
    parts = [long.encode()[start : start + 1301] for start in range(0, 131072, 1301)]
    yield "a text in 101 fragments", in_fragments(TEXT, *parts), echoed(long), 1000


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
        yield f"UTF-8 {number}", frame(TEXT, encoded), echoed(text), 1000
        single = [encoded[place : place + 1] for place in range(len(encoded))]
        yield f"UTF-8 {number} byte by byte", in_fragments(TEXT, *single), echoed(text), 1000
    for bad in INVALID + CUT_SHORT:
        yield f"invalid UTF-8 {bad.hex()}", frame(TEXT, bad), [], 1007
        yield (
            f"invalid UTF-8 {bad.hex()} in a fragment",
            in_fragments(TEXT, b"a", bad, b"b"),
            [],
            1007,
        )
        yield f"binary {bad.hex()}", frame(BINARY, bad), echoed(bad), 1000


def closes() -> Iterable[Case]:
    hello = frame(TEXT, b"Hello")
    yield "a message and a close", hello + close(1000), echoed("Hello"), 1000
    many = [f"message {number}" for number in range(40)]
    sent = b"".join(frame(TEXT, each.encode()) for each in many)
    yield "messages and a close", sent + close(1000), echoed(*many), 1000
    yield (
        "binary and a close",
        frame(BINARY, b"x") * 3 + close(1000),
        echoed(b"x", b"x", b"x"),
        1000,
    )
    yield "two closes", close(1000) * 2, [], 1000
    yield "a ping after a close", close(1000) + frame(PING, b"late"), [], 1000
    yield "a text after a close", close(1000) + hello, [], 1000
    yield "garbage after a close", close(1000) + b"\xff" * 100_000, [], 1000
    yield "an unfinished text", hello + frame(TEXT, b"a", fin=False), echoed("Hello"), 1000
    yield "a close of one byte", frame(CLOSE, b"\x03"), [], 1002
    yield "a reason of 123", close(1000, b"*" * 123), [], 1000
    yield "a reason of 124", close(1000, b"*" * 124), [], 1002
    yield "a reason that is not UTF-8", close(1000, b"\xce\xba\xed\xa0\x80"), [], 1007
    for code in (*range(1000, 1004), *range(1007, 1014), 3000, 3999, 4000, 4999):
        yield f"close {code}", close(code, b"because"), [], code
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
        yield f"close {code}", close(code), [], 1002


CASES = [*sizes(), *pings(), *reserved(), *fragments(), *texts(), *closes()]


@pytest.mark.parametrize(
    ("sent", "answers", "code"), [pytest.param(*rest, id=name) for name, *rest in CASES]
)
async def test_frames_are_answered_as_rfc_6455_requires(
    sent: bytes, answers: list[Sent], code: int
) -> None:
    async with echoing() as echo:
        # Short input is also sent byte by byte.
        for piece_bytes in (None, 1) if len(sent) < 300 else (None, 1400):
            client = await echo.opened()
            with structlog.testing.capture_logs() as logs:
                await client.send(sent + close(1000), piece_bytes)
                *frames, end = await client.frames()
            assert frames == answers
            assert closes_with(end, code)
            broken = code in (1002, 1007) and sent != close(code, b"because")
            events = [(entry["event"], entry["reason"]) for entry in logs]
            assert events == [("client_dropped", "protocol")] * broken


async def test_close_without_a_code_is_answered_without_one() -> None:
    async with echoing() as echo:
        client = await echo.opened()
        await client.send(frame(CLOSE, b""))
        assert await client.frames() == [Sent(CLOSE, b"")]


async def test_protocol_violation_is_counted() -> None:
    with dropping(protocol=1):
        async with echoing() as echo:
            client = await echo.opened()
            await client.send(b"\x81\x02hi")
            assert closes_with((await client.frames())[-1], 1002)
            await echo.ended.wait()


@pytest.mark.parametrize("bad", INVALID, ids=bytes.hex)
async def test_invalid_utf_8_is_refused_before_the_frame_is_complete(bad: bytes) -> None:
    async with echoing() as echo:
        for start in (
            frame(TEXT, b"valid", fin=False) + frame(CONTINUATION, bad, fin=False),
            frame(TEXT, bad + b"and a rest that never arrives")[: 6 + len(bad)],
        ):
            client = await echo.opened()
            await client.send(start)
            [end] = await client.frames()
            assert closes_with(end, 1007)


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
async def test_oversize_message_is_closed_with_1009(message: bytes, behind: bytes) -> None:
    with dropping(too_big=1):
        async with echoing(StreamLimits(message_bytes=1000)) as echo:
            client = await echo.opened()
            await client.send(frame(TEXT, b"fits") + message + behind)
            *frames, end = await client.frames()
            assert frames == echoed("fits")
            assert closes_with(end, 1009)
            await client.stream.aclose()
            await echo.ended.wait()


async def test_fragments_are_limited_even_if_they_are_empty() -> None:
    limits = StreamLimits(message_bytes=1000, frames_per_second=inf)
    async with echoing(limits) as echo:
        client = await echo.opened()
        some = in_fragments(TEXT, *[b""] * (MOST_FRAGMENTS - 1), b"end")
        await client.send(some + frame(TEXT, b"", fin=False))
        await client.send(frame(CONTINUATION, b"", fin=False) * MOST_FRAGMENTS * 2)
        *frames, end = await client.frames()
        assert frames == echoed("end")
        assert closes_with(end, 1009)


async def test_close_frame_reaches_a_client_that_keeps_sending() -> None:
    async with echoing() as echo:
        client = await echo.opened()
        # Much more than one read: unread input would make the kernel reset the connection.
        await client.send(frame(3, b"") + b"x" * 3_000_000)
        [end] = await client.frames()
        assert end.opcode == CLOSE
        await client.stream.aclose()
        await echo.ended.wait()


async def test_client_that_never_hangs_up_is_cut(mock_clock: trio.testing.MockClock) -> None:
    async with echoing() as echo:
        client = await echo.opened()
        await client.send(frame(3, b""))
        [end] = await client.frames()
        assert end.opcode == CLOSE
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not echo.ended.is_set()
        mock_clock.jump(CLOSE_SECONDS)
        await echo.ended.wait()


async def test_client_that_does_not_read_is_cut(mock_clock: trio.testing.MockClock) -> None:
    async with echoing() as echo:
        client = await echo.client()
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await client.open()
        await client.send(frame(BINARY, bytes(8_000_000)) + frame(3, b""))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not echo.ended.is_set()
        mock_clock.jump(CLOSE_SECONDS)
        await echo.ended.wait()


async def test_frames_after_the_servers_close_are_ignored() -> None:
    async with serving() as server:
        client = Client(await server.raw())
        await client.open(b"?token=wrong")
        with structlog.testing.capture_logs() as logs:
            [end] = await client.frames()
            assert end == Sent(CLOSE, b"\x03\xf0Invalid or expired API token")
            await client.send(frame(PING, b"late") + close(1008))
            await client.stream.send_eof()
            await server.until_clients(0)
        assert logs == []


async def test_unexpected_exception_closes_with_1011(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(connection_module.Connection, "_on_input", broken)
    with dropping(crashed=1):
        async with echoing() as echo:
            client = await echo.opened()
            with structlog.testing.capture_logs() as logs:
                await client.send(frame(TEXT, b"Hello"))
                [end] = await client.frames()
            assert closes_with(end, 1011)
            assert [entry["event"] for entry in logs] == ["session_crashed"]
