"""The opening handshake is accepted or refused as RFC 6455 requires."""

import pytest
import structlog
import trio
import trio.testing

from bridge.access.tokens import Grant
from tests.unit.echoing import HANDSHAKE, KEY, Client, close, closes_with, echoing
from tests.unit.serving import (
    BINARY,
    CLOSE,
    LIMITS,
    PING,
    TEXT,
    Sent,
    Tokens,
    dropping,
    frame,
    serving,
)


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
        pytest.param(HANDSHAKE, id="usual"),
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
async def test_handshake_is_accepted_without_any_extension(request_: bytes) -> None:
    async with echoing() as echo:
        client = await echo.client()
        # The sample of RFC 6455, section 1.3, with a frame in the same segment.
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
        assert (await client.frames())[0] == Sent(TEXT, b"right behind")


async def test_handshake_may_arrive_byte_by_byte() -> None:
    async with serving() as server:
        client = Client(await server.raw())
        await client.send(HANDSHAKE.replace(b"/ws", b"/ws?token=right"), 1)
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")


class SlowTokens(Tokens):
    """Authenticates a token after everything sent by the client was read."""

    async def authenticate(self, token: str, address: str = "") -> Grant | None:
        await trio.testing.wait_all_tasks_blocked(0.01)
        return await super().authenticate(token, address)


@pytest.mark.parametrize("tokens", [Tokens, SlowTokens])
async def test_messages_right_behind_the_handshake_are_answered(tokens: type[Tokens]) -> None:
    async with serving(tokens=tokens()) as server:
        client = Client(await server.raw())
        handshake = HANDSHAKE.replace(b"/ws", b"/ws?token=right")
        await client.send(handshake + frame(TEXT, b'{"type": "ping"}') * 3 + close(1000))
        await client.head()
        welcome, *pongs, end = await client.frames()
        assert b"established" in welcome.payload
        assert pongs == [Sent(TEXT, b'{"type": "pong"}')] * 3
        assert end == Sent(CLOSE, b"\x03\xe8")


async def test_oversize_message_before_the_token_is_checked_is_closed_with_1009() -> None:
    with dropping(too_big=1):
        async with serving(tokens=SlowTokens()) as server:
            client = Client(await server.raw())
            handshake = HANDSHAKE.replace(b"/ws", b"/ws?token=right")
            oversize = frame(BINARY, bytes(LIMITS.message_bytes + 1))
            await client.send(handshake + oversize + frame(PING, b"") * 100)
            await client.head()
            *_, end = await client.frames()
            assert closes_with(end, 1009)
            await server.until_clients(0)


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
        pytest.param(with_value(b"Upgrade", b"h2c"), 400, id="another upgrade"),
        pytest.param(without(b"Connection"), 400, id="no connection"),
        pytest.param(with_value(b"Connection", b"keep-alive"), 400, id="only keep-alive"),
        pytest.param(without(b"Host"), 400, id="no host"),
        pytest.param(with_value(b"Host", b"\xff\xfe"), 400, id="a host not in ASCII"),
        pytest.param(with_value(b"Host", b"xn--0"), 400, id="an invalid host"),
        pytest.param(with_value(b"Connection", b"\xd0\x98"), 400, id="a connection not in ASCII"),
        pytest.param(also(b"Sec-WebSocket-Protocol: \xff"), 400, id="a protocol not in ASCII"),
        pytest.param(HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"), 400, id="HTTP/1.0"),
    ],
)
async def test_invalid_handshake_is_refused_and_the_connection_ends(
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
        assert all(entry["event"] == "handshake_rejected" for entry in logs)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(without(b"Upgrade"), id="no upgrade"),
        pytest.param(with_value(b"Upgrade", b"h2c"), id="another upgrade"),
        pytest.param(b"GET /ws HTTP/1.1\r\nHost: echo.test\r\n\r\n", id="a page"),
        pytest.param(with_value(b"Sec-WebSocket-Key", b"c2hvcnQ="), id="a short key"),
    ],
)
async def test_refusal_says_that_the_connection_closes(request_: bytes) -> None:
    async with echoing() as echo:
        client = await echo.client()
        await client.send(request_)
        answer = await client.head()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"connection: close" in answer.lower()
        assert await client.frames() == []
