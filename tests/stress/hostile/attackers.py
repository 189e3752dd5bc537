"""All attacks on the port at once, from a separate process.

``python -m tests.stress.hostile.attackers`` reads a target as JSON from standard input, attacks it
until the time is up, and prints the number of attacks as JSON.
"""

import json
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass

import trio

from tests.unit.serving import BINARY, CONTINUATION, PING, PONG, TEXT, RawClient, frame

#: A complete handshake.
_HANDSHAKE = (
    b"GET /ws%b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)


@dataclass(frozen=True)
class Target:
    """The bridge under attack.

    Attributes:
        port: its port on 127.0.0.1.
        token: a valid token, which some attackers have.
        seconds: duration of the attack.
        logins: number of failed logins.
        message_bytes: the maximum size of a message.
    """

    port: int
    token: str
    seconds: float
    logins: int
    message_bytes: int = 64 * 1024


class UnexpectedError(Exception):
    """The bridge gave a response that it must not give."""


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
)
LOGINS: tuple[Attack, ...] = (failed_rest_logins, failed_stream_logins)
NAMES = [crowd.attack.__name__ for crowd in CROWDS] + [login.__name__ for login in LOGINS]
#: Time limit of one round.
ROUND_SECONDS = 60.0


async def attack_with_all(target: Target) -> Mapping[str, object]:
    """Run all attacks at once; return the rounds of each and the unexpected responses."""
    rounds: Counter[str] = Counter()
    unexpected: Counter[str] = Counter()

    async def go(attack: Attack, receive_buffer_bytes: int | None = None) -> None:
        """Attack once; the bridge may do anything to the connection."""
        with (
            suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError, EOFError),
            trio.socket.socket() as connection,
        ):
            if receive_buffer_bytes is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            await connection.connect(("127.0.0.1", target.port))
            rounds[attack.__name__] += 1
            with trio.move_on_after(ROUND_SECONDS):
                try:
                    await attack(target, trio.SocketStream(connection))
                except UnexpectedError as error:
                    unexpected[str(error)] += 1

    async def again_and_again(crowd: Crowd) -> None:
        while True:
            await go(crowd.attack, crowd.receive_buffer_bytes)
            await trio.sleep(crowd.rest_seconds)

    with trio.move_on_after(target.seconds):
        async with trio.open_nursery() as nursery:
            for crowd in CROWDS:
                for _ in range(crowd.attackers):
                    nursery.start_soon(again_and_again, crowd)
            # Finish in four fifths of the time.
            for number in range(target.logins):
                nursery.start_soon(go, LOGINS[number % 2])
                await trio.sleep(0.8 * target.seconds / target.logins)
    return {"rounds": rounds, "unexpected": list(unexpected)}


async def attack_from_a_process(target: Target) -> dict[str, object]:
    """Attack from another process; return what ``attack_with_all`` returns.

    Raises:
        subprocess.CalledProcessError: the process failed.
    """
    done = await trio.run_process(
        [sys.executable, "-m", "tests.stress.hostile.attackers"],
        stdin=json.dumps(asdict(target)).encode(),
        capture_stdout=True,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    print(json.dumps(trio.run(attack_with_all, Target(**json.load(sys.stdin)))))
