"""Everything that strangers do to the one port, all at once, from a process of their own.

``python -m tests.stress.hostile.attackers`` reads a target as JSON from standard input, attacks it
until the time is up, and writes a JSON count of the attacks.
"""

from __future__ import annotations

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

#: A handshake after which nothing but frames is wanted.
_HANDSHAKE = (
    b"GET /ws%b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)


@dataclass(frozen=True)
class Target:
    """What is attacked.

    Attributes:
        port: of the bridge, on 127.0.0.1.
        token: one that is valid; some attackers have it.
        seconds: how long.
        logins: how many fail meanwhile.
        message_bytes: a longer message is too long for the stream.
    """

    port: int
    token: str
    seconds: float
    logins: int
    message_bytes: int = 64 * 1024


class UnexpectedError(Exception):
    """The bridge answered what it must not."""


#: One round of an attack, on a connection that was just made.
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
    """Drip the head of a request until it is answered 408."""
    await _drip(stream, b"GET /webhooks HTTP/1.1\r\nX-Slow: " + b"x" * 1000)


async def slow_handshakes(_target: Target, stream: trio.SocketStream) -> None:
    """Drip a WebSocket handshake."""
    await _drip(stream, b"GET /ws?token=x HTTP/1.1\r\nX-Slow: " + b"x" * 1000)


async def slow_bodies(target: Target, stream: trio.SocketStream) -> None:
    """Drip a body, with a token or without one."""
    token = random.choice([f"X-API-Key: {target.token}\r\n", ""])
    await stream.send_all(
        f"POST /webhooks HTTP/1.1\r\nHost: x\r\n{token}Content-Length: 1000\r\n\r\n".encode()
    )
    await _drip(stream, b"{" * 1000)


async def idle(_target: Target, stream: trio.SocketStream) -> None:
    """Say nothing until the bridge hangs up."""
    await stream.receive_some()


async def failed_rest_logins(_target: Target, stream: trio.SocketStream) -> None:
    """Call with a wrong token; the answer must not be another one than 401 or 429."""
    wrong = random.randbytes(16).hex()
    await stream.send_all(
        f"GET /webhooks HTTP/1.1\r\nHost: x\r\nX-API-Key: {wrong}\r\n\r\n".encode()
    )
    status = (await _everything(stream))[9:12]
    if status not in (b"401", b"429"):
        raise UnexpectedError(f"a wrong token was answered {status!r}")


async def failed_stream_logins(_target: Target, stream: trio.SocketStream) -> None:
    """Connect with a wrong token; the close must not be another one than 1008 or 1013."""
    client = RawClient(stream)
    await client.open(f"/ws?token={random.randbytes(16).hex()}")
    code = await client.close_code()
    if code not in (1008, 1013):
        raise UnexpectedError(f"a wrong token was answered with close {code}")


def _query(target: Target) -> bytes:
    return random.choice([f"?token={target.token}".encode(), b""])


async def pings(target: Target, stream: trio.SocketStream) -> None:
    """Flood with pings, with a token or without one, and read few of the answers.

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
    """Send messages that are too long, and one that says that it is 9 exabytes long."""
    await stream.send_all(_HANDSHAKE % _query(target))
    oversize = frame(random.choice([TEXT, BINARY]), bytes(target.message_bytes + 1))
    await stream.send_all(oversize * 3 + b"\x81\xff\x7f" + b"\xff" * 7)
    await stream.send_all(bytes(1 << 20))
    await _everything(stream)


async def garbage(_target: Target, stream: trio.SocketStream) -> None:
    """Send what is no HTTP, or begins as if it were."""
    beginning = random.choice(
        [b"", b"GET / HTTP/1.1\r\n", b"POST /webhooks HTTP/1.1\r\nHost: x\r\n"]
    )
    await stream.send_all(beginning + random.randbytes(random.randrange(40_000)))
    await stream.send_eof()
    await _everything(stream)


async def tls(_target: Target, stream: trio.SocketStream) -> None:
    """Speak TLS."""
    await stream.send_all(_TLS)
    if await _everything(stream):
        raise UnexpectedError("TLS was answered")


async def slow_readers(target: Target, stream: trio.SocketStream) -> None:
    """Ask for a large answer, and read it slowly."""
    await stream.send_all(
        b"GET /webhooks?limit=200 HTTP/1.1\r\nHost: x\r\nX-API-Key: %b\r\n\r\n"
        % target.token.encode()
    )
    while await stream.receive_some(100):  # noqa: ASYNC110 - it is no event that is waited for
        await trio.sleep(1)


async def resets(target: Target, stream: trio.SocketStream) -> None:
    """Say a part of something and hang up so that the bridge gets a reset, at any time."""
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
    """How many do the same at once, and how long each rests between two rounds."""

    attack: Attack
    attackers: int
    rest_seconds: float = 0.1
    #: What the system keeps of what comes, before it is read.
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
#: A round that is not over by then is left for another.
ROUND_SECONDS = 60.0


async def attack_with_all(target: Target) -> Mapping[str, object]:
    """Attack in every way at once; return the number of rounds of each, and what was unexpected."""
    rounds: Counter[str] = Counter()
    unexpected: Counter[str] = Counter()

    async def go(attack: Attack, receive_buffer_bytes: int | None = None) -> None:
        """Attack once; what the bridge does to the connection is its own affair."""
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
            # All of them in four fifths of the time.
            for number in range(target.logins):
                nursery.start_soon(go, LOGINS[number % 2])
                await trio.sleep(0.8 * target.seconds / target.logins)
    return {"rounds": rounds, "unexpected": list(unexpected)}


async def attack_from_a_process(target: Target) -> dict[str, object]:
    """Have another process attack; return what ``attack_with_all`` does.

    Raises:
        subprocess.CalledProcessError: that process has failed.
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
