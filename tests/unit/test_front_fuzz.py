"""Whatever is sent to the one port is answered or dropped, and leaves nothing behind."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate

import pytest
import structlog
import trio
import trio.testing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.fronting import (
    ECHO,
    H2C,
    HELLO,
    IN_CHUNKS,
    JSON,
    POST,
    WEBSOCKET,
    all_answers,
    everything,
    fronting,
    only_answer,
    reset,
)


class Records(logging.Handler):
    """What libraries log, such as tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.all: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(self.format(record))


@contextmanager
def silence() -> Iterator[None]:
    """Check that nothing is logged, except about TLS."""
    records = Records()
    logging.getLogger().addHandler(records)
    try:
        with structlog.testing.capture_logs() as logs:
            yield
    finally:
        logging.getLogger().removeHandler(records)
    assert [entry for entry in logs if entry["event"] != "tls_handshake_rejected"] == []
    assert records.all == []


def check(received: bytes) -> None:
    """Check that every response is whole, and that errors have the API's shape."""
    if received.endswith(b"to the stream"):
        received = received.removesuffix(b"to the stream")
    for got in all_answers(received):
        if got.status >= 400:
            assert "detail" in got.json


CUT = [
    pytest.param(ECHO, id="with a length"),
    pytest.param(IN_CHUNKS, id="in chunks"),
    pytest.param(HELLO.replace(b"\r\n\r\n", b"\r\n" + H2C + b"\r\n"), id="h2c"),
    pytest.param(b"GET /ws HTTP/1.1\r\nHost: x\r\n" + WEBSOCKET + b"\r\n", id="stream"),
]


@pytest.mark.parametrize("request_bytes", CUT)
async def test_a_truncated_request_is_answered_or_dropped(request_bytes: bytes) -> None:
    with silence():
        async with fronting() as server:
            for size in range(len(request_bytes)):
                client = await server.connect(request_bytes[:size])
                await client.send_eof()
                received = await everything(client)
                assert bool(received) is bool(size), "silence gets no answer"
                if received:
                    assert only_answer(received).status == 400
            client = await server.connect(request_bytes)
            await client.send_eof()
            check(received := await everything(client))
            assert received


@pytest.mark.parametrize("request_bytes", CUT)
async def test_a_reset_anywhere_does_not_matter(request_bytes: bytes) -> None:
    with silence():
        async with fronting() as server:
            for size in range(len(request_bytes) + 1):
                client = await server.connect(request_bytes[:size])
                # Sometimes before the server has looked, and sometimes after.
                if size % 2:
                    await trio.testing.wait_all_tasks_blocked()
                reset(client)
            assert (await server.answer(HELLO)).status == 200


lines = st.lists(
    st.sampled_from(
        [
            b"Host: x",
            b"Content-Length: 16",
            b"Content-Length: 5",
            b"Content-Length: -1",
            b"Content-Length: 99999999999999999999",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: gzip, chunked",
            b"Transfer-Encoding: identity",
            b"Content-Type: application/json",
            b"Expect: 100-continue",
            b"Connection: close",
            b"Connection: keep-alive, Upgrade",
            b"Upgrade: h2c",
            b"Upgrade: websocket",
            b"HTTP2-Settings: AAMAAABkAAQAAP__",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            b"Sec-WebSocket-Version: 13",
            b"X: a\x00b",
            b"X: a\rb",
            b"X : a",
            b" folded",
            b": nameless",
            b"X: \xff\xfe",
            b"X: " + b"x" * 20_000,
            b"no colon",
        ]
    ),
    max_size=6,
)
methods = st.sampled_from([b"GET", b"POST", b"OPTIONS", b"CONNECT", b"PRI", b"DELETE", b"TRACE"])
targets = st.sampled_from(
    [
        b"/hello",
        b"/echo",
        b"/refusing",
        b"/ws",
        b"/ws/tickets",
        b"*",
        b"http://elsewhere.test/hello",
        b"elsewhere.test:443",
        b"/%00/%ff/%",
        b"/../../etc/passwd",
        b"/hello?" + b"x=" * 4000,
        b"/" + b"x" * 20_000,
        b"/\x01",
        b"\xff",
        b"",
    ]
)
versions = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"", b"HTTP/1.1 "])
ends_of_line = st.sampled_from([b"\r\n", b"\n", b"\r"])
bodies = st.sampled_from(
    [
        b"",
        JSON,
        b"10\r\n" + JSON + b"\r\n0\r\n\r\n",
        b"10;x=" + b"y" * 20_000,
        b"FFFFFFFFFFFFFFFFFFFFFFFF\r\n",
        b"-1\r\n",
        b"1\r\nxyz\r\n",
        b"0\r\nTrailer: x\r\n\r\n",
        b"1\r\nx\r\n" * 500,
        HELLO,
        b"\x88\x80zzzz",
    ]
) | st.binary(max_size=100)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Generate something like a request, and what follows it."""
    line = b" ".join([draw(methods), draw(targets), draw(versions)])
    end = draw(st.just(b"\r\n") | ends_of_line)
    return end.join([line, b"Host: x", *draw(lines), b"", b""]) + draw(bodies)


@st.composite
def flipped(draw: st.DrawFn, of: st.SearchStrategy[bytes]) -> bytes:
    """Flip some bits."""
    sent = bytearray(draw(of))
    for place in draw(st.lists(st.integers(0, max(0, len(sent) * 8 - 1)), max_size=4)):
        if sent:
            sent[place // 8] ^= 1 << place % 8
    return bytes(sent)


valid = st.sampled_from([HELLO, ECHO, IN_CHUNKS])
attacks = st.one_of(
    requests(), flipped(requests()), flipped(valid), st.binary(max_size=300), st.binary(max_size=3)
)


@settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    sent=attacks,
    pauses=st.lists(st.integers(1, 400), max_size=4),
    end=st.sampled_from(["eof", "close", "reset"]),
)
@example(sent=HELLO * 3, pauses=[], end="eof")
@example(sent=HELLO.replace(b"1.1", b"1.0") * 2, pauses=[], end="eof")
@example(sent=IN_CHUNKS.replace(b"10\r\n", b"zz\r\n"), pauses=[100], end="eof")
@example(sent=IN_CHUNKS.replace(b"10\r\n", b"zz\r\n"), pauses=[100], end="reset")
@example(sent=POST + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n", pauses=[], end="eof")
def test_whatever_is_sent_leaves_nothing_behind(sent: bytes, pauses: list[int], end: str) -> None:
    async def scene() -> None:
        async with fronting() as server:
            client = await server.connect()
            places = [each for each in accumulate(pauses) if each < len(sent)]
            with suppress(trio.BrokenResourceError):  # the server may have hung up
                for start, stop in zip([0, *places], [*places, len(sent)], strict=True):
                    await client.send_all(sent[start:stop])
                    await trio.testing.wait_all_tasks_blocked()
                if end == "eof":
                    await client.send_eof()
                    check(await everything(client))
            if end == "reset":
                reset(client)
            else:
                client.socket.close()
            assert (await server.answer(HELLO)).status == 200

    with silence():
        trio.run(scene)
