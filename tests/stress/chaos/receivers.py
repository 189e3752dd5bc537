"""The receivers of the chaos test: honest ones, and hostile ones that turn honest at the end.

Each has its own port. It records a request in its account before it responds.
"""

import base64
import gzip
import hashlib
import hmac
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

import h11
import trio
from standardwebhooks import Webhook, WebhookVerificationError

from tests.stress.chaos.verdict import Account, Arrival

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Habit:
    """What a hostile receiver does to a request before it hangs up."""

    act: Callable[[trio.SocketStream], Awaitable[None]]
    #: Whether it sends a complete 2xx head: the receiver has then accepted the delivery, whether or
    #: not the bridge retries it.
    accepts: bool = False
    #: The share of requests affected; the others are served honestly.
    share: float = 1.0
    #: Whether it happens before the request is read.
    unread: bool = False


async def _say(stream: trio.SocketStream, answer: bytes) -> None:
    await stream.send_all(answer)


async def _hang(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass


async def _drip(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        await stream.send_all(b".")
        await trio.sleep(1)


async def _repeat(stream: trio.SocketStream, head: bytes, part: bytes) -> None:
    await stream.send_all(head)
    while True:
        await stream.send_all(part)
        # Do not occupy a whole processor.
        await trio.sleep(0.001)


async def _answer_and_close_a_little_later(stream: trio.SocketStream) -> None:
    # The next request may be on its way by then, and is lost with the connection.
    await stream.send_all(OK)
    await trio.sleep(0.005)


async def _reset(stream: trio.SocketStream) -> None:
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _status(status: str, *headers: str) -> Callable[[trio.SocketStream], Awaitable[None]]:
    head = [f"HTTP/1.1 {status}", "Content-Length: 0", "Connection: close", *headers]
    return partial(_say, answer="\r\n".join([*head, "", ""]).encode())


# 64 MiB of zeros, compressed to 64 KiB.
_BOMB = gzip.compress(bytes(64 * 1024 * 1024))

HABITS: Mapping[str, Habit] = {
    "hangs": Habit(_hang),
    "drips": Habit(_drip, accepts=True),
    "endless_headers": Habit(
        partial(_repeat, head=b"HTTP/1.1 200 OK\r\n", part=b"X-More: and more\r\n" * 200)
    ),
    "endless_continues": Habit(partial(_repeat, head=b"", part=b"HTTP/1.1 100 Continue\r\n\r\n")),
    "endless_body": Habit(
        partial(
            _repeat,
            head=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            part=b"1000\r\n" + b"y" * 4096 + b"\r\n",
        ),
        accepts=True,
    ),
    "closes_mid_answer": Habit(
        partial(_say, answer=b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart"), accepts=True
    ),
    "large_headers": Habit(
        partial(
            _say,
            answer=b"HTTP/1.1 200 OK\r\n"
            + b"".join(b"X-Header-%d: %s\r\n" % (i, b"v" * 1000) for i in range(2000))
            + b"Content-Length: 0\r\n\r\n",
        ),
        accepts=True,
    ),
    "gzip_bomb": Habit(
        partial(
            _say,
            answer=b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
            % len(_BOMB)
            + _BOMB,
        ),
        accepts=True,
    ),
    "fails_at_random": Habit(_status("500 Internal Server Error"), share=0.5),
    "fails_now_and_then": Habit(_status("503 Service Unavailable"), share=0.1),
    "too_many_requests": Habit(_status("429 Too Many Requests", "Retry-After: 1")),
    "closes_kept_alive": Habit(_answer_and_close_a_little_later, accepts=True),
    "closes_and_says_so": Habit(_status("200 OK"), accepts=True),
    "resets": Habit(_reset),
    "resets_unread": Habit(_reset, unread=True),
}


class Trap:
    """Delays the response to one request."""

    def __init__(self) -> None:
        self.caught = trio.Event()
        self.released = trio.Event()
        #: The webhook-id and source port of the caught request.
        self.message_id = ""
        self.sender_port = 0
        self._wanted: str | None = None

    def rearm(self, message_id: str | None = None) -> None:
        """Release the caught request, and catch the next one, or the next with this webhook-id."""
        self.released.set()
        self.caught, self.released = trio.Event(), trio.Event()
        self._wanted = message_id

    async def hold(self, message_id: str, sender_port: int) -> None:
        """Return when the request may be answered: at once unless it is caught."""
        if self.caught.is_set() or self._wanted not in (None, message_id):
            return
        self.message_id, self.sender_port = message_id, sender_port
        released = self.released
        self.caught.set()
        await released.wait()


class Receiver:
    """The endpoint of one webhook, hostile while it has a habit."""

    def __init__(self, account: Account, habit: Habit | None, chance: Random) -> None:
        self.account = account
        self.habit = habit
        self.secret = "whsec_" + base64.b64encode(f"secret of {account.name}".encode()).decode()
        self.port = 0
        self._chance = chance
        self._trap: Trap | None = None
        self._verifier = Webhook(self.secret)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.account.name}"

    async def listen(self, nursery: trio.Nursery) -> None:
        """Serve on a free port until the nursery is cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, self._serve, listeners)

    @contextmanager
    def trap(self) -> Iterator[Trap]:
        """Delay the response to the next request until the end of the context."""
        self._trap = Trap()
        try:
            yield self._trap
        finally:
            self._trap.released.set()
            self._trap = None

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                sender_port = stream.socket.getpeername()[1]
                connection = h11.Connection(h11.SERVER)
                while await self._serve_one(stream, connection, sender_port):
                    connection.start_next_cycle()
            except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError, EOFError):
                pass  # the sender is gone

    async def _serve_one(
        self, stream: trio.SocketStream, connection: h11.Connection, sender_port: int
    ) -> bool:
        """Serve one request; return whether the connection stays open."""
        if self.habit is not None and self.habit.unread:
            await self.habit.act(stream)
            return False
        headers, body = await _read(stream, connection)
        # Not earlier: the receiver may turn honest while it waits for a request.
        habit = self.habit
        if habit is not None and self._chance.random() >= habit.share:
            habit = None
        self.account.arrivals.append(
            Arrival(
                message_id=headers.get("webhook-id", ""),
                webhook_id=headers.get("x-webhook-id", ""),
                event_type=headers.get("x-webhook-event", ""),
                body=body,
                verified=self._verifies(headers, body),
                accepted=habit is None or habit.accepts,
            )
        )
        if habit is not None:
            await habit.act(stream)
            return False
        if self._trap is not None:
            await self._trap.hold(headers.get("webhook-id", ""), sender_port)
        answer = h11.Response(status_code=200, headers=[("Content-Length", "2")])
        for event in (answer, h11.Data(b"ok"), h11.EndOfMessage()):
            await stream.send_all(connection.send(event) or b"")
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    def _verifies(self, headers: Mapping[str, str], body: bytes) -> bool:
        digest = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        if headers.get("x-webhook-signature") != f"sha256={digest}":
            return False
        try:
            self._verifier.verify(body, dict(headers))
        except WebhookVerificationError:
            return False
        return True


async def _read(
    stream: trio.SocketStream, connection: h11.Connection
) -> tuple[dict[str, str], bytes]:
    """Read a request to its end.

    Raises:
        EOFError: the sender hung up.
    """
    headers: dict[str, str] = {}
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            received = bytes(await stream.receive_some())
            if not received:
                raise EOFError
            connection.receive_data(received)
        elif isinstance(event, h11.Request):
            headers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return headers, body
        else:
            raise EOFError
