"""Few responses with a payload of megabytes are in memory at once."""

import pytest
import trio
from starlette.types import Message, Scope

from bridge.database import shares
from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import Row
from bridge.web.api.large import LargePayload

SCOPE: Scope = {"type": "http", "method": "GET", "headers": []}


class Payloads:
    """A database that counts the payloads it has read."""

    def __init__(self) -> None:
        self.read = 0

    async def fetch(self, _name: str, row_id: int) -> list[Row]:
        self.read += 1
        return [{"payload": f"[{row_id}]"}]


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
    assert sorted(bodies) == [b""] * 3 + [b"{[0]}", b"{[1]}", b"{[2]}"]


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
