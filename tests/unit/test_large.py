"""Payloads of megabytes are sent piece by piece, a few at once."""

import pytest
import trio
from starlette.types import Message, Scope

from bridge.database import shares
from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import Row
from bridge.web.api import large
from bridge.web.api.large import LargePayload

SCOPE: Scope = {"type": "http", "method": "GET", "headers": [], "asgi": {"spec_version": "2.4"}}


class Payloads:
    """A database that counts the payloads it has read."""

    def __init__(self) -> None:
        self.read = 0

    async def fetch(self, _name: str, row_id: int, start: int, most: int) -> list[Row]:
        self.read += 1
        return [{"piece": f"[{row_id}]"[start : start + most]}]


async def receive() -> Message:
    """Wait forever: the client stays."""
    await trio.sleep_forever()
    raise AssertionError


async def test_responses_wait_until_earlier_ones_have_been_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    database = Payloads()
    share = shares.Share(database, 2)  # type: ignore[arg-type]
    bodies: list[bytes] = []
    readable = trio.Event()

    async def send(message: Message) -> None:
        await readable.wait()
        bodies.append(message.get("body", b""))

    async with trio.open_nursery() as clients:
        for number in range(3):
            clients.start_soon(
                LargePayload(share, "event_payload", number, ("{", "}")), SCOPE, receive, send
            )
        await trio.testing.wait_all_tasks_blocked()
        assert database.read == 2
        readable.set()
    sent = b"".join(bodies)
    assert [sent.count(b"[%d]" % number) for number in range(3)] == [1, 1, 1]


async def test_payload_is_read_and_sent_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "PIECE", 4)
    bodies: list[bytes] = []

    async def send(message: Message) -> None:
        bodies.append(message.get("body", b""))

    for number in 12345, 12:
        share = shares.Share(Payloads(), 1)  # type: ignore[arg-type]
        await LargePayload(share, "event_payload", number, ("{", "}"))(SCOPE, receive, send)
    assert list(filter(None, bodies)) == [b"{", b"[123", b"45]", b"}", b"{", b"[12]", b"}"]


async def test_response_that_waits_too_long_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    database = Payloads()
    share = shares.Share(database, 1)  # type: ignore[arg-type]

    async def send(_message: Message) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as clients:
        clients.start_soon(LargePayload(share, "event_payload", 1), SCOPE, receive, send)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(DatabaseUnavailable):
            await LargePayload(share, "event_payload", 2)(SCOPE, receive, send)
        assert database.read == 1
        clients.cancel_scope.cancel()
