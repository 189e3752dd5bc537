"""A client that was away gets the events it missed, in order and once."""

import socket
import struct
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio_websocket import WebSocketConnection

from bridge.live import history
from tests.unit.serving import (
    FORGETFUL,
    Serving,
    ask,
    ids_until_resumed,
    message,
    serving,
)


@pytest.fixture(params=[history.RECENT_BYTES, FORGETFUL], ids=["memory", "log"])
def recent_bytes(request: pytest.FixtureRequest) -> int:
    """Return how much the bridge keeps in memory."""
    remembered: int = request.param
    return remembered


async def test_missed_events_come_before_live_ones(recent_bytes: int) -> None:
    async with serving(recent_bytes=recent_bytes) as server:
        server.publish(count=1700)
        client = await server.welcomed("?token=right&since=200")
        ids, resumed = await ids_until_resumed(client)
        assert ids == list(range(201, 1701))
        assert resumed == {"type": "resumed", "from": 200, "to": 1700}
        server.publish()
        assert (await message(client))["id"] == 1701


async def test_message_resumes_like_the_url(recent_bytes: int) -> None:
    async with serving(recent_bytes=recent_bytes) as server:
        server.publish(count=10)
        client = await server.welcomed()
        await client.send_message('{"type":"resume","since":4}')
        ids, resumed = await ids_until_resumed(client)
        assert ids == [5, 6, 7, 8, 9, 10]
        assert resumed == {"type": "resumed", "from": 4, "to": 10}
        server.publish()
        assert (await message(client))["id"] == 11


async def test_resume_with_nothing_missed_is_answered() -> None:
    async with serving() as server:
        server.publish(count=3)
        client = await server.welcomed("?token=right&since=3")
        assert await message(client) == {"type": "resumed", "from": 3, "to": 3}


async def test_resume_from_zero_sends_the_whole_log(recent_bytes: int) -> None:
    async with serving(recent_bytes=recent_bytes) as server:
        server.publish(count=3)
        client = await server.welcomed("?token=right&since=0")
        assert await ids_until_resumed(client) == (
            [1, 2, 3],
            {"type": "resumed", "from": 0, "to": 3},
        )


async def test_only_subscribed_events_are_replayed(recent_bytes: int) -> None:
    async with serving(recent_bytes=recent_bytes) as server:
        for _ in range(3):
            server.publish(event_type="ticket.created")
            server.publish(event_type="user.created")
        client = await server.welcomed("?token=right&since=1&events=ticket.*")
        ids, resumed = await ids_until_resumed(client)
        assert ids == [3, 5]
        assert resumed["to"] == 6, "the position to continue from includes events of other types"


async def test_events_are_not_sent_twice_on_one_connection(recent_bytes: int) -> None:
    async with serving(recent_bytes=recent_bytes) as server:
        server.publish(count=4)
        client = await server.welcomed()
        server.publish(count=2)
        assert [(await message(client))["id"] for _ in range(2)] == [5, 6]
        await client.send_message('{"type":"resume","since":2}')
        assert (await ids_until_resumed(client))[0] == [3, 4]
        await client.send_message('{"type":"resume","since":1}')
        assert (await ids_until_resumed(client))[0] == [2]
        await client.send_message('{"type":"resume","since":5}')
        assert (await ids_until_resumed(client))[0] == []


async def test_wider_subscription_can_replay_everything(recent_bytes: int) -> None:
    async with serving(recent_bytes=recent_bytes) as server:
        client = await server.welcomed("?token=right&events=ticket.created")
        server.publish(event_type="user.created")
        server.publish(event_type="ticket.created")
        assert (await message(client))["id"] == 2
        await ask(client, type="subscribe", events=["*"])
        await client.send_message('{"type":"resume","since":0}')
        assert (await ids_until_resumed(client))[0] == [1, 2]


NUMBERS = st.integers(0, 2)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 7), st.sampled_from(["a.x", "a.y", "b"])),
        st.tuples(st.just("read"), NUMBERS, st.integers(1, 5)),
        st.tuples(st.just("leave"), NUMBERS),
        st.tuples(st.just("vanish"), NUMBERS),
        st.tuples(st.just("yield"), st.integers(1, 4)),
    ),
    max_size=40,
)


class Wanderer:
    """A client that connects and leaves, and keeps what it received."""

    def __init__(self, server: Serving, pattern: str) -> None:
        self._server = server
        self._query = f"?token=right&events={pattern}"
        self.position = 0
        self.ids: list[int] = []
        self.client: WebSocketConnection | None = None
        self._stream: trio.SocketStream | None = None

    async def read(self, count: int) -> None:
        """Receive up to this many messages; connect first if necessary."""
        if self.client is None:
            self.client = await self._server.connect(f"{self._query}&since={self.position}")
            self._stream = self._server.streams[-1]
            assert (await message(self.client))["type"] == "connection"
        for _ in range(count):
            with trio.move_on_after(0.01):
                got = await message(self.client)
                if got["type"] == "resumed":
                    assert got["to"] >= self.position
                    self.position = got["to"]
                else:
                    self.ids.append(got["id"])
                    self.position = got["id"]

    async def leave(self) -> None:
        """Close in order; messages that were not read are lost."""
        if self.client is not None:
            await self.client.aclose()
            self.client = None

    def vanish(self) -> None:
        """Reset the connection."""
        if self._stream is not None and self.client is not None:
            no_lingering = struct.pack("ii", 1, 0)
            self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
            self._stream.socket.close()
            self.client = None


@settings(max_examples=150, deadline=None, derandomize=True)
@given(steps=STEPS, recent_bytes=st.sampled_from([FORGETFUL, 1000, history.RECENT_BYTES]))
async def test_reconnecting_client_gets_every_event_once_in_order(
    steps: list[tuple[Any, ...]], recent_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "PAGE_EVENTS", 3)
        async with serving(recent_bytes=recent_bytes) as server:
            wanderers = [Wanderer(server, pattern) for pattern in ("*", "a.*", "b")]
            for step, *arguments in steps:
                match step:
                    case "publish":
                        server.publish(count=arguments[0], event_type=arguments[1])
                    case "read":
                        await wanderers[arguments[0]].read(arguments[1])
                    case "leave":
                        await wanderers[arguments[0]].leave()
                    case "vanish":
                        wanderers[arguments[0]].vanish()
                    case "yield":
                        for _ in range(arguments[0]):
                            await trio.lowlevel.checkpoint()
            server.publish(event_type="a.x")
            server.publish(event_type="b")
            for wanderer, takes in zip(wanderers, ("ab", "a", "b"), strict=True):
                wanted = [each.id for each in server.log.events if each.event_type[0] in takes]
                while wanderer.position < wanted[-1]:
                    await wanderer.read(1)
                assert wanderer.ids == wanted
