"""Attacks of strangers on the port."""

import random
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlencode

import trio

from bridge.web.console.entrance import SIGN_IN_COOKIE
from bridge.web.console.guard import CSRF_FIELD, csrf_token
from tests.stress.hostile.target import Tally, Target, UnexpectedError
from tests.unit.serving import BINARY, CONTINUATION, PING, PONG, TEXT, RawClient, frame

#: A complete handshake.
_HANDSHAKE = (
    b"GET /ws%b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)


#: One round of an attack on a new connection.
Attack = Callable[[Target, trio.SocketStream], Awaitable[None]]


async def _everything(stream: trio.SocketStream, most_bytes: int = 1 << 20) -> bytes:
    received = b""
    while len(received) < most_bytes and (data := await stream.receive_some()):
        received += data
    return received


async def _drip(stream: trio.SocketStream, what: bytes) -> None:
    for place in range(len(what)):
        await stream.send_all(what[place : place + 1])
        await trio.sleep(0.2)


async def slow_heads(_target: Target, stream: trio.SocketStream) -> None:
    """Send the head of a request byte by byte until the response is 408."""
    await _drip(stream, b"GET /webhooks HTTP/1.1\r\nX-Slow: " + b"x" * 1000)


async def slow_handshakes(_target: Target, stream: trio.SocketStream) -> None:
    """Send a WebSocket handshake byte by byte."""
    await _drip(stream, b"GET /ws?token=x HTTP/1.1\r\nX-Slow: " + b"x" * 1000)


async def slow_bodies(target: Target, stream: trio.SocketStream) -> None:
    """Send a body byte by byte, with or without a token."""
    token = random.choice([f"X-API-Key: {target.token}\r\n", ""])
    await stream.send_all(
        f"POST /webhooks HTTP/1.1\r\nHost: x\r\n{token}Content-Length: 1000\r\n\r\n".encode()
    )
    await _drip(stream, b"{" * 1000)


async def idle(_target: Target, stream: trio.SocketStream) -> None:
    """Send nothing until the bridge hangs up."""
    await stream.receive_some()


async def failed_rest_logins(_target: Target, stream: trio.SocketStream) -> None:
    """Call REST with an invalid token; the response must be 401 or 429.

    An overloaded bridge may also hang up before it has read the request.
    """
    wrong = random.randbytes(16).hex()
    await stream.send_all(
        f"GET /webhooks HTTP/1.1\r\nHost: x\r\nX-API-Key: {wrong}\r\n\r\n".encode()
    )
    status = (await _everything(stream))[9:12]
    if status not in (b"401", b"429", b""):
        raise UnexpectedError(f"an invalid token got {status!r}")


async def failed_stream_logins(_target: Target, stream: trio.SocketStream) -> None:
    """Connect with an invalid token; the close code must be 1008 or 1013."""
    client = RawClient(stream)
    await client.open(f"/ws?token={random.randbytes(16).hex()}")
    code = await client.close_code()
    if code not in (1008, 1013):
        raise UnexpectedError(f"an invalid token got close code {code}")


def _query(target: Target) -> bytes:
    return random.choice([f"?token={target.token}".encode(), b""])


async def pings(target: Target, stream: trio.SocketStream) -> None:
    """Flood with pings, with or without a token, and read few of the responses.

    Or with pongs or fragments, which need none, and of which hundreds fit into one read.
    """
    await stream.send_all(_HANDSHAKE % _query(target))
    fragments = frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 900
    flood = random.choice([frame(PING, bytes(100)) * 50, frame(PONG, b"") * 900, fragments])
    for _ in range(100):
        await stream.send_all(flood)
        await trio.sleep(0.05)
    await _everything(stream, 65536)


async def oversize_frames(target: Target, stream: trio.SocketStream) -> None:
    """Send oversized messages, one with a claimed length of 9 exabytes."""
    await stream.send_all(_HANDSHAKE % _query(target))
    oversize = frame(random.choice([TEXT, BINARY]), bytes(target.message_bytes + 1))
    await stream.send_all(oversize * 3 + b"\x81\xff\x7f" + b"\xff" * 7)
    await stream.send_all(bytes(1 << 20))
    await _everything(stream)


async def garbage(_target: Target, stream: trio.SocketStream) -> None:
    """Send data that is not HTTP or only starts like it."""
    beginning = random.choice(
        [b"", b"GET / HTTP/1.1\r\n", b"POST /webhooks HTTP/1.1\r\nHost: x\r\n"]
    )
    await stream.send_all(beginning + random.randbytes(random.randrange(40_000)))
    await stream.send_eof()
    await _everything(stream)


async def tls(_target: Target, stream: trio.SocketStream) -> None:
    """Start a TLS handshake."""
    await stream.send_all(_TLS)
    if await _everything(stream):
        raise UnexpectedError("TLS was answered")


async def slow_readers(target: Target, stream: trio.SocketStream) -> None:
    """Request a large response and read it slowly."""
    await stream.send_all(
        b"GET /webhooks?limit=200 HTTP/1.1\r\nHost: x\r\nX-API-Key: %b\r\n\r\n"
        % target.token.encode()
    )
    while await stream.receive_some(100):  # noqa: ASYNC110 - not waiting for an event
        await trio.sleep(1)


async def resets(target: Target, stream: trio.SocketStream) -> None:
    """Send a part of something and reset the connection at a random time."""
    whole = random.choice(
        [
            b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /webhooks HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{}",
            _HANDSHAKE % _query(target) + frame(PING, b"x") + frame(TEXT, b"{}"),
        ]
    )
    await stream.send_all(whole[: random.randrange(len(whole) + 1)])
    await trio.sleep(random.choice([0, 0.001, 0.01, 0.1]))
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _sign_in(body: bytes, cookie: str = "", announced: int | None = None) -> bytes:
    length = len(body) if announced is None else announced
    return (
        f"POST /console/sign-in HTTP/1.1\r\nHost: x\r\nCookie: {SIGN_IN_COOKIE}={cookie}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n"
    ).encode() + body


async def large_forms(_target: Target, stream: trio.SocketStream) -> None:
    """Send forms of a megabyte, announced or in chunks."""
    if random.random() < 0.5:
        await stream.send_all(_sign_in(b"token=" + b"x" * (1 << 20)))
    else:
        await stream.send_all(
            b"POST /console/sign-in HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
            + (b"2000\r\n" + b"%41" * 2730 + b"==\r\n")
            * 100
        )
    status = (await _everything(stream))[9:12]
    if status not in (b"413", b"429", b"503", b""):
        raise UnexpectedError(f"a large form got {status!r}")


async def unfinished_forms(_target: Target, stream: trio.SocketStream) -> None:
    """Announce a form and send most of it, but not the end."""
    await stream.send_all(_sign_in(b"token=" + b"x" * 8_000, announced=8_100))
    await stream.receive_some()


async def forms_of_many_fields(_target: Target, stream: trio.SocketStream) -> None:
    """Send a form of thousands of fields."""
    await stream.send_all(_sign_in(b"&".join([b"a=%41"] * 1_300)))
    status = (await _everything(stream))[9:12]
    if status not in (b"422", b"429", b"503", b""):
        raise UnexpectedError(f"a form of many fields got {status!r}")


async def failed_form_logins(_target: Target, stream: trio.SocketStream) -> None:
    """Sign in with a wrong token and everything else right."""
    cookie = secrets.token_urlsafe(32)
    form = {"token": secrets.token_urlsafe(32), CSRF_FIELD: csrf_token(cookie)}
    await stream.send_all(_sign_in(urlencode(form).encode(), cookie))
    status = (await _everything(stream))[9:12]
    if status not in (b"401", b"429", b"503", b""):
        raise UnexpectedError(f"a wrong token in the form got {status!r}")


@dataclass(frozen=True)
class Crowd:
    """How many run the same attack at once, and the pause between two rounds."""

    attack: Attack
    attackers: int
    rest_seconds: float = 0.1
    #: The size of the receive buffer.
    receive_buffer_bytes: int | None = None


CROWDS = (
    Crowd(slow_heads, 50),
    Crowd(slow_handshakes, 50),
    Crowd(slow_bodies, 20),
    Crowd(idle, 500),
    Crowd(pings, 6, receive_buffer_bytes=4096),
    Crowd(oversize_frames, 4, rest_seconds=0.5),
    Crowd(garbage, 4),
    Crowd(tls, 4),
    Crowd(slow_readers, 20, receive_buffer_bytes=4096),
    Crowd(resets, 4),
    # More than the bridge holds at once, so that it ends one for each new one.
    Crowd(unfinished_forms, 100, rest_seconds=3.0),
    Crowd(large_forms, 4, rest_seconds=0.5),
    Crowd(forms_of_many_fields, 4, rest_seconds=0.5),
)
LOGINS: tuple[Attack, ...] = (failed_rest_logins, failed_stream_logins, failed_form_logins)
NAMES = [crowd.attack.__name__ for crowd in CROWDS] + [login.__name__ for login in LOGINS]
#: Time limit of one round.
ROUND_SECONDS = 60.0


async def attack(target: Target, tally: Tally) -> None:
    """Attack until cancelled."""

    async def go(attack: Attack, receive_buffer_bytes: int | None = None) -> None:
        """Attack once; the bridge may do anything to the connection."""
        with (
            suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError, EOFError),
            trio.socket.socket() as connection,
        ):
            if receive_buffer_bytes is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            await connection.connect(("127.0.0.1", target.port))
            tally.rounds[attack.__name__] += 1
            with trio.move_on_after(ROUND_SECONDS):
                try:
                    await attack(target, trio.SocketStream(connection))
                except UnexpectedError as error:
                    tally.unexpected[str(error)] += 1

    async def again_and_again(crowd: Crowd) -> None:
        while True:
            await go(crowd.attack, crowd.receive_buffer_bytes)
            await trio.sleep(crowd.rest_seconds)

    async with trio.open_nursery() as nursery:
        for crowd in CROWDS:
            for _ in range(crowd.attackers):
                nursery.start_soon(again_and_again, crowd)
        # Finish in four fifths of the time.
        for number in range(target.logins):
            nursery.start_soon(go, LOGINS[number % len(LOGINS)])
            await trio.sleep(0.8 * target.seconds / target.logins)
