"""A client that was away gets what it missed, in order and once, or is told what is gone."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio_websocket import WebSocketConnection

from bridge.database.errors import DatabaseUnavailable
from bridge.live import history
from tests.unit.serving import (
    Log,
    RawClient,
    Serving,
    ask,
    closing,
    hold_back,
    message,
    never,
    serving,
)

#: A memory that holds nothing: every event of the past comes from the log.
FORGETFUL = 0


async def ids_until_resumed(client: WebSocketConnection) -> tuple[list[int], dict[str, Any]]:
    """Return the ids of what comes, and the message after them."""
    ids: list[int] = []
    while True:
        got = await message(client)
        if got["type"] == "resumed":
            return ids, got
        ids.append(got["id"])


@pytest.fixture(params=[history.RECENT_BYTES, FORGETFUL], ids=["memory", "log"])
def recent_bytes(request: pytest.FixtureRequest) -> int:
    """How much the bridge remembers without reading the log."""
    remembered: int = request.param
    return remembered


@pytest.fixture
def small_pages() -> Iterator[None]:
    """Pages of three events, so that a few events are many pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "PAGE_EVENTS", 3)
        yield


async def test_what_was_missed_comes_first_then_resumed_then_live(recent_bytes: int) -> None:
    async with serving(recent_bytes=recent_bytes) as server:
        server.publish(count=1700)
        client = await server.welcomed("?token=right&since=200")
        ids, resumed = await ids_until_resumed(client)
        assert ids == list(range(201, 1701))
        assert resumed == {"type": "resumed", "from": 200, "to": 1700}
        server.publish()
        assert (await message(client))["id"] == 1701


async def test_a_message_resumes_as_the_url_does(recent_bytes: int) -> None:
    async with serving(recent_bytes=recent_bytes) as server:
        server.publish(count=10)
        client = await server.welcomed()
        await client.send_message('{"type":"resume","since":4}')
        ids, resumed = await ids_until_resumed(client)
        assert ids == [5, 6, 7, 8, 9, 10]
        assert resumed == {"type": "resumed", "from": 4, "to": 10}
        server.publish()
        assert (await message(client))["id"] == 11


async def test_who_missed_nothing_is_told_so() -> None:
    async with serving() as server:
        server.publish(count=3)
        client = await server.welcomed("?token=right&since=3")
        assert await message(client) == {"type": "resumed", "from": 3, "to": 3}


async def test_from_zero_is_from_the_beginning(recent_bytes: int) -> None:
    async with serving(recent_bytes=recent_bytes) as server:
        server.publish(count=3)
        client = await server.welcomed("?token=right&since=0")
        assert await ids_until_resumed(client) == (
            [1, 2, 3],
            {"type": "resumed", "from": 0, "to": 3},
        )


async def test_only_what_is_subscribed_is_sent_again(recent_bytes: int) -> None:
    async with serving(recent_bytes=recent_bytes) as server:
        for _ in range(3):
            server.publish(event_type="ticket.created")
            server.publish(event_type="user.created")
        client = await server.welcomed("?token=right&since=1&events=ticket.*")
        ids, resumed = await ids_until_resumed(client)
        assert ids == [3, 5]
        assert resumed["to"] == 6, "where to go on, although 6 was not for this client"


async def test_what_this_connection_has_carried_is_not_sent_again(recent_bytes: int) -> None:
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


async def test_after_a_wider_subscription_everything_can_be_sent_again(recent_bytes: int) -> None:
    async with serving(recent_bytes=recent_bytes) as server:
        client = await server.welcomed("?token=right&events=ticket.created")
        server.publish(event_type="user.created")
        server.publish(event_type="ticket.created")
        assert (await message(client))["id"] == 2
        await ask(client, type="subscribe", events=["*"])
        await client.send_message('{"type":"resume","since":0}')
        assert (await ids_until_resumed(client))[0] == [1, 2]


# --- gaps


async def test_older_than_the_log_is_a_gap_and_what_there_is() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=9)
        del server.log.events[:6]
        client = await server.welcomed("?token=right&since=2")
        assert await message(client) == {"type": "gap", "since": 2, "available_from": 7}
        assert await ids_until_resumed(client) == (
            [7, 8, 9],
            {"type": "resumed", "from": 2, "to": 9},
        )


async def test_just_at_the_end_of_the_log_is_no_gap() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=9)
        del server.log.events[:6]
        client = await server.welcomed("?token=right&since=6")
        assert (await ids_until_resumed(client))[0] == [7, 8, 9]


async def test_a_log_that_has_expired_altogether_is_a_gap() -> None:
    log = Log()
    log.newest_id = 50
    async with serving(log=log) as server:
        client = await server.welcomed("?token=right&since=20")
        assert await message(client) == {"type": "gap", "since": 20, "available_from": 51}
        assert (await message(client))["type"] == "resumed"
        server.publish()
        assert (await message(client))["id"] == 51


@pytest.mark.usefixtures("small_pages")
async def test_what_expires_while_it_is_sent_is_a_gap() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=12)

        async def expire_in_between(after: int) -> None:
            if after == 3:
                del server.log.events[:9]

        server.log.before_read = expire_in_between
        client = await server.welcomed("?token=right&since=0")
        assert [(await message(client))["id"] for _ in range(3)] == [1, 2, 3]
        assert await message(client) == {"type": "gap", "since": 3, "available_from": 10}
        assert (await ids_until_resumed(client))[0] == [10, 11, 12]


async def test_an_id_that_nobody_gave_out_is_a_gap() -> None:
    """As after the database was restored from a backup: ids are given out a second time."""
    async with serving() as server:
        server.publish(count=3)
        client = await server.welcomed("?token=right&since=900")
        assert await message(client) == {"type": "gap", "since": 900, "available_from": 4}
        assert await message(client) == {"type": "resumed", "from": 900, "to": 3}
        server.publish()
        assert (await message(client))["id"] == 4


async def test_an_id_that_another_bridge_has_published_is_waited_for() -> None:
    async with serving() as server:
        server.publish(count=3)
        server.log.newest_id = 5
        client = await server.welcomed("?token=right&since=5")
        assert await ask(client, type="ping") == {"type": "pong"}
        server.publish(count=3)
        assert await ids_until_resumed(client) == ([6], {"type": "resumed", "from": 5, "to": 6})


async def test_the_log_is_not_asked_by_everybody_at_once_whether_there_is_an_id() -> None:
    async with serving() as server:
        now = most = 0

        async def count(_after: int) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await trio.testing.wait_all_tasks_blocked()
            now -= 1

        server.log.before_read = count
        clients = [await server.welcomed("?token=right&since=900") for _ in range(10)]
        for client in clients:
            assert (await message(client))["type"] == "gap"
        assert most <= history.CONCURRENT_READS


async def test_many_who_wait_for_the_database_knock_like_two() -> None:
    tries = 0

    async def away(_after: int) -> None:
        nonlocal tries
        tries += 1
        raise DatabaseUnavailable("gone")

    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=20)
        server.log.before_read = away
        with structlog.testing.capture_logs() as logs:
            for since in range(20):
                await server.welcomed(f"?token=right&since={since}")
            await trio.testing.wait_all_tasks_blocked(0.02)
        assert len(logs) == tries <= 2 * history.CONCURRENT_READS


async def test_a_page_that_cannot_be_read_holds_nobody_else_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "RETRY_SECONDS", (0.0, 0.001))
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=20)

        async def damaged(after: int) -> None:
            if after < history.CONCURRENT_READS + 1:
                raise DatabaseUnavailable("a damaged page")

        server.log.before_read = damaged
        for since in range(history.CONCURRENT_READS + 1):
            await server.welcomed(f"?token=right&since={since}")
        client = await server.welcomed("?token=right&since=10")
        assert (await ids_until_resumed(client))[0] == list(range(11, 21))


async def test_what_lay_before_an_id_that_was_waited_for_can_be_asked_for() -> None:
    async with serving() as server:
        server.publish(count=3)
        server.log.newest_id = 5
        client = await server.welcomed("?token=right&since=5")
        assert await ask(client, type="ping") == {"type": "pong"}
        server.publish(count=3)
        assert (await ids_until_resumed(client))[0] == [6]
        await client.send_message('{"type":"resume","since":1}')
        assert (await ids_until_resumed(client))[0] == [2, 3, 4, 5]


# --- while it goes on


@pytest.mark.usefixtures("small_pages")
async def test_messages_are_answered_while_missed_events_are_sent() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=9)
        reading, go_on = trio.Event(), trio.Event()

        async def wait_in_between(after: int) -> None:
            if after == 3:
                reading.set()
                await go_on.wait()

        server.log.before_read = wait_in_between
        client = await server.welcomed("?token=right&since=0")
        other = await server.welcomed()
        await reading.wait()
        assert [(await message(client))["id"] for _ in range(3)] == [1, 2, 3]
        assert await ask(client, type="ping") == {"type": "pong"}
        assert (await ask(client, type="resume", since=1))["code"] == "resume_in_progress"
        server.publish()
        assert (await message(other))["id"] == 10, "nobody else waits for it"
        narrowed = await ask(client, type="subscribe", events=["other.*"])
        assert narrowed["events"] == ["other.*"]
        server.publish(event_type="other.event")
        go_on.set()
        assert await ids_until_resumed(client) == ([11], {"type": "resumed", "from": 0, "to": 11})
        server.publish(event_type="test.event")
        server.publish(event_type="other.event")
        assert (await message(client))["id"] == 13


@pytest.mark.usefixtures("small_pages")
async def test_what_is_subscribed_to_meanwhile_is_sent_of_the_time_before_too() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        for _ in range(4):
            server.publish(event_type="a")
            server.publish(event_type="b")
        client = await server.welcomed("?token=right&events=a")
        for _ in range(4):
            server.publish(event_type="a")
            server.publish(event_type="b")
        assert [(await message(client))["id"] for _ in range(4)] == [9, 11, 13, 15]
        _, go_on = hold_back(server.log)
        await client.send_message('{"type":"resume","since":0}')
        assert (await ask(client, type="subscribe", events=["b"]))["events"] == ["a", "b"]
        go_on.set()
        ids, resumed = await ids_until_resumed(client)
        assert ids == [*range(1, 9), 10, 12, 14, 16]
        assert resumed == {"type": "resumed", "from": 0, "to": 16}


async def test_while_the_database_is_away_the_client_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "RETRY_SECONDS", (0.0, 0.0))
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=3)
        server.log.failure = DatabaseUnavailable("gone")
        client = await server.welcomed("?token=right&since=0")
        assert (await ids_until_resumed(client))[0] == [1, 2, 3]
        assert server.log.reads == 2


@pytest.mark.usefixtures("small_pages")
async def test_others_run_between_pages_that_have_nothing_for_a_client() -> None:
    async with serving() as server:
        server.publish(count=3000)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        client = await server.welcomed("?token=right&events=other.*")
        server.nursery.start_soon(count_turns)
        before = turns
        await ask(client, type="resume", since=1)
        assert turns - before >= 3000 / 3


async def test_a_client_that_does_not_read_is_not_read_for() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        for _ in range(40):
            server.publish(json.dumps("x" * 100_000), count=5)
        lazy = RawClient(await server.raw())
        lazy.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 65536)
        await lazy.open("/ws?token=right&since=0")
        witness = await server.welcomed()
        server.publish()
        assert (await message(witness))["id"] == 201
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert server.log.reads < 40, "20 MB in pages of 256 kB are about 100 reads"
        texts = [await lazy.text() for _ in range(202)]
        assert [json.loads(text)["id"] for text in texts[1:]] == list(range(1, 202))


async def test_many_who_come_back_at_once_read_the_log_like_one() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=2000)
        clients = [await server.welcomed(f"?token=right&since={each}") for each in range(20)]
        for since, client in enumerate(clients):
            assert (await ids_until_resumed(client))[0] == list(range(since + 1, 2001))
        assert server.log.reads <= 20 + 3, "the first page of each, then the same pages"


@pytest.mark.parametrize("events", ["*", "other.*"])
async def test_a_session_that_ends_while_it_catches_up_does_not_join_any_more(events: str) -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=3)
        waiting, go_on = hold_back(server.log)
        await server.welcomed(f"?token=right&since=0&events={events}")
        await waiting.wait()
        await server.streams[-1].aclose()
        await server.until_clients(0)
        go_on.set()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert server.hub.followers == 0


@pytest.mark.parametrize("since", [0, 900])
async def test_nothing_comes_after_the_goodbye(since: int) -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=3)
        del server.log.events[:2]
        waiting, go_on = hold_back(server.log)
        client = RawClient(await server.raw())
        await client.open(f"/ws?token=right&since={since}")
        assert json.loads(await client.text())["type"] == "connection"
        await waiting.wait()
        server.nursery.start_soon(server.live.stop)
        assert await client.close_code() == 1001
        go_on.set()
        with trio.move_on_after(0.1):
            assert await client.stream.receive_some() == b""


@pytest.mark.usefixtures("small_pages")
async def test_nothing_of_a_log_that_went_back_comes_after_the_gap() -> None:
    async with serving() as server:
        server.publish(count=3000)
        clients = [RawClient(await server.raw()) for _ in range(3)]
        for client in clients:
            await client.open("/ws?token=right&since=0")
        server.live.start_over(10)
        for client in clients:
            texts, code, _ = await client.everything()
            messages = [json.loads(each) for each in texts]
            assert "resumed" not in {each["type"] for each in messages}, "still catching up"
            assert messages[-1] == {"type": "gap", "since": 3000, "available_from": 11}
            assert code == 1001


async def test_a_stopping_bridge_sends_away_who_is_catching_up() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=3)
        server.log.before_read = never
        client = await server.welcomed("?token=right&since=0")
        server.nursery.start_soon(server.live.stop)
        assert (await closing(client))[0] == 1001


# --- whatever happens

NUMBERS = st.integers(0, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 7), st.sampled_from(["a.x", "a.y", "b"])),
        st.tuples(st.just("read"), NUMBERS, st.integers(1, 5)),
        st.tuples(st.just("leave"), NUMBERS),
        st.tuples(st.just("vanish"), NUMBERS),
        st.tuples(st.just("let others run"), st.integers(1, 4)),
    ),
    max_size=40,
)


class Wanderer:
    """A client that comes and goes, and remembers what it has got."""

    def __init__(self, server: Serving, pattern: str) -> None:
        self._server = server
        self._query = f"?token=right&events={pattern}"
        self.position = 0
        self.ids: list[int] = []
        self.client: WebSocketConnection | None = None
        self._stream: trio.SocketStream | None = None

    async def read(self, count: int) -> None:
        """Take so many messages, as far as they come; connect first, if need be."""
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
        """Close politely; what had come and was not read is gone."""
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
async def test_whoever_comes_and_goes_gets_everything_in_order_and_once(
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
                    case "let others run":
                        for _ in range(arguments[0]):
                            await trio.lowlevel.checkpoint()
            server.publish(event_type="a.x")
            server.publish(event_type="b")
            for wanderer, takes in zip(wanderers, ("ab", "a", "b"), strict=True):
                wanted = [each.id for each in server.log.events if each.event_type[0] in takes]
                while wanderer.position < wanted[-1]:
                    await wanderer.read(1)
                assert wanderer.ids == wanted
