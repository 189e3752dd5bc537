"""Who is let in, who is sent away, and when."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog
import trio
from trio_websocket import ConnectionClosed

from bridge.access.scopes import WEBHOOKS_READ
from bridge.access.tokens import Grant
from bridge.database.errors import DatabaseUnavailable
from bridge.live import stream
from bridge.live.connection import ConnectionLimits
from bridge.live.framing import CHUNK_BYTES, PING_FRAME
from bridge.live.replay import CONCURRENT_REPLAYS
from bridge.live.stream import StreamLimits
from tests.unit.serving import (
    TEXT,
    RawClient,
    Serving,
    Tokens,
    ask,
    closing,
    frame,
    message,
    never,
    serving,
)
from tests.waiting import until

# --- the first message as a token


async def test_the_first_message_may_bring_the_token() -> None:
    async with serving() as server:
        client = await server.connect("?events=mine")
        welcome = await ask(client, type="auth", token="right")
        assert (welcome["type"], welcome["status"]) == ("connection", "connected")
        server.publish()
        server.publish(event_type="mine")
        assert (await message(client))["type"] == "mine"


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ('{"type":"auth","token":"wrong"}', "Invalid or expired API token"),
        ('{"type":"auth","token":""}', "Missing API token"),
        ('{"type":"auth","token":7}', "Missing API token"),
        ('{"type":"auth"}', "Missing API token"),
        ('{"type":"ping"}', "Missing API token"),
        ("nonsense", "Missing API token"),
        ("[" * 30_000, "Missing API token"),
    ],
    ids=range(7),
)
async def test_any_other_first_message_ends_it(first: str, reason: str) -> None:
    async with serving() as server:
        client = await server.connect("")
        await client.send_message(first)
        assert await closing(client) == (1008, reason)


async def test_nothing_is_sent_before_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TOKEN_SECONDS", 0.2)
    async with serving() as server:
        client = await server.connect("")
        server.publish()
        with pytest.raises(ConnectionClosed, match="Missing API token"):
            await client.get_message()


# --- tokens that end


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are looked up again after a moment."""
    monkeypatch.setattr(stream, "TOKENS_SECONDS", 0.01)


def test_tokens_are_looked_up_often_enough() -> None:
    assert stream.TOKENS_SECONDS <= 2.5, "revoked tokens are out within 5 s"


@pytest.mark.usefixtures("quickly")
async def test_clients_of_a_revoked_token_are_sent_away_and_others_stay() -> None:
    async with serving() as server:
        revoked = [await server.welcomed() for _ in range(2)]
        other = await server.welcomed("?token=other")
        del server.tokens.known["right"]
        for client in revoked:
            assert await closing(client) == (1008, "API token revoked or expired")
        server.publish()
        assert (await message(other))["id"] == 1


@pytest.mark.usefixtures("quickly")
async def test_a_token_that_loses_its_scope_ends_as_well() -> None:
    async with serving() as server:
        client = await server.welcomed()
        server.tokens.known["right"] = Grant(1, "right", frozenset([WEBHOOKS_READ]))
        assert await closing(client) == (1008, "API token revoked or expired")


@pytest.mark.usefixtures("quickly")
async def test_while_the_database_is_away_clients_stay() -> None:
    looked_up = trio.Event()

    class Away(Tokens):
        async def grants(self, _ids: object) -> list[Grant]:
            looked_up.set()
            raise DatabaseUnavailable("gone")

    async with serving(tokens=Away()) as server:
        client = await server.welcomed()
        await looked_up.wait()
        assert await ask(client, type="ping") == {"type": "pong"}


@pytest.mark.usefixtures("quickly")
async def test_the_static_token_is_not_looked_up() -> None:
    tokens = Tokens()
    tokens.known["static"] = Grant(None, "BRIDGE_TOKEN", frozenset(["admin"]), "setting")
    async with serving(tokens=tokens) as server:
        static, other = await server.welcomed("?token=static"), await server.welcomed()
        del tokens.known["right"], tokens.known["static"]
        assert (await closing(other))[0] == 1008
        assert await ask(static, type="ping") == {"type": "pong"}


# --- how many


async def test_more_clients_than_allowed_are_asked_to_come_later() -> None:
    async with serving(limits=StreamLimits(clients=2)) as server:
        first, second = await server.welcomed(), await server.welcomed("?token=other")
        assert await closing(await server.connect()) == (1013, "Too many connections")
        await first.aclose()
        await server.until_clients(1)
        third = await server.welcomed()
        server.publish()
        assert (await message(second))["id"] == (await message(third))["id"] == 1


async def test_clients_without_a_token_keep_nobody_out() -> None:
    async with serving(limits=StreamLimits(clients=2)) as server:
        silent = [await server.connect("") for _ in range(2)]
        assert await closing(await server.connect("")) == (1013, "Too many connections")
        client = await server.welcomed()
        assert (await ask(silent[0], type="auth", token="right"))["type"] == "connection"
        await silent[1].send_message('{"type":"auth","token":"right"}')
        assert await closing(silent[1]) == (1013, "Too many connections")
        server.publish()
        assert (await message(client))["id"] == 1


async def test_a_client_that_leaves_is_forgotten() -> None:
    async with serving() as server:
        polite, rude = await server.welcomed(), RawClient(await server.raw())
        await rude.open()
        await until(lambda: server.hub.followers == 2)
        await polite.aclose()
        await rude.stream.aclose()
        await until(lambda: server.hub.followers == 0)
        await server.until_clients(0)


async def test_more_clients_with_one_token_than_allowed_are_asked_to_come_later() -> None:
    async with serving(limits=StreamLimits(clients_per_token=1)) as server:
        first = await server.welcomed()
        assert await closing(await server.connect()) == (
            1013,
            "Too many connections with this API token",
        )
        await server.welcomed("?token=other")
        await first.aclose()
        await server.until_clients(1)
        await server.welcomed()


# --- origins


ORIGINS = StreamLimits(origins=("https://dashboard.example", "http://localhost:3000"))


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        (b"https://dashboard.example", True),
        (b"HTTPS://Dashboard.Example", True),
        (b"http://localhost:3000", True),
        (None, True),
        (b"https://dashboard.example:444", False),
        (b"http://dashboard.example", False),
        (b"https://dashboard.example.evil.example", False),
        (b"null", False),
        (b"", False),
    ],
)
async def test_pages_of_other_origins_are_refused(origin: bytes | None, welcome: bool) -> None:
    async with serving(limits=ORIGINS) as server:
        headers = [] if origin is None else [(b"Origin", origin)]
        client = await server.connect(headers=headers)
        if welcome:
            assert (await message(client))["type"] == "connection"
        else:
            assert await closing(client) == (1008, "Origin not allowed")


async def test_without_a_list_pages_of_any_origin_may_connect() -> None:
    async with serving() as server:
        client = await server.connect(headers=[(b"Origin", b"https://anywhere.example")])
        assert (await message(client))["type"] == "connection"


# --- silence


async def test_a_client_that_answers_no_pings_is_let_go() -> None:
    async with serving(limits=StreamLimits(ping_seconds=0.05)) as server:
        client = RawClient(await server.raw())
        await client.open()
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await client.close_code()  # reads the pings, and does not answer
        await server.until_clients(0)


async def test_a_client_that_reads_slowly_is_not_gone_before_it_comes_to_the_ping() -> None:
    async with (
        serving(limits=StreamLimits(ping_seconds=0.2), send_buffer_bytes=4096) as server,
        slowly(server, "?token=right") as slow,
    ):
        server.publish(json.dumps("x" * 1_500_000))
        with trio.move_on_after(2 * stream.SILENT_INTERVALS * 0.2):
            while True:
                slow.protocol.receive_data(await slow.stream.receive_some(4096))
                await trio.sleep(0.02)
        [client] = server.live._clients
        assert not client.connection.outlet.is_drained
        assert json.loads(await slow.text())["type"] == "connection"
        assert json.loads(await slow.text())["id"] == 1


async def test_a_client_that_reads_nothing_any_more_is_gone_whatever_waits_for_it() -> None:
    async with (
        serving(limits=StreamLimits(ping_seconds=0.05), send_buffer_bytes=4096) as server,
        slowly(server, "?token=right"),
    ):
        server.publish(json.dumps("x" * 1_500_000))
        await server.until_clients(0)


async def test_a_client_that_is_gone_is_told_of_once_however_long_its_token_is_looked_up() -> None:
    answers = trio.Event()

    class SlowTokens(Tokens):
        async def authenticate(self, token: str, address: str) -> Grant | None:
            with trio.CancelScope(shield=True):  # as a statement is
                await answers.wait()
            return await super().authenticate(token, address)

    limits = StreamLimits(ping_seconds=0.05)
    async with serving(limits=limits, tokens=SlowTokens()) as server:
        with structlog.testing.capture_logs() as logs:
            await RawClient(await server.raw()).open()
            await until(lambda: bool(logs))
            await trio.sleep(0.1)
            answers.set()
            await server.until_clients(0)
        assert [(each["event"], each["reason"]) for each in logs] == [("client_dropped", "silent")]


def test_a_peer_that_vanished_is_noticed_within_a_minute() -> None:
    limits = StreamLimits()
    assert 2 * limits.ping_seconds < stream.SILENT_INTERVALS * limits.ping_seconds + 1.0 <= 60


async def test_a_client_that_answers_pings_stays_and_is_pinged_again() -> None:
    async with serving(limits=StreamLimits(ping_seconds=0.3)) as server:
        client = RawClient(await server.raw())
        await client.open()
        await client.answer_pings(3)
        assert server.live.clients == 1


async def test_a_client_that_says_nothing_for_too_long_is_sent_away() -> None:
    limits = StreamLimits(ping_seconds=2, idle_seconds=1.5)
    async with serving(limits=limits) as server:
        talks, idle = await server.welcomed(), await server.welcomed()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _talk() -> None:
                while True:
                    assert await ask(talks, type="ping") == {"type": "pong"}
                    await trio.sleep(0.02)

            assert await closing(idle) == (1001, "Idle: no message for 1.5 s")
            nursery.cancel_scope.cancel()


# --- the end


async def test_a_client_that_was_accepted_before_the_end_and_speaks_after_it_is_sent_away() -> None:
    async with serving() as server:
        late = RawClient(await server.raw())
        await server.live.stop()
        await late.open()
        assert await late.everything() == ([], 1001, "the bridge is shutting down")


# --- slow clients


async def overflow(slow: RawClient) -> None:
    """Have the server cut the client off, which does not read, by long answers to its requests."""
    patterns = ["*", *(f"{number}{'x' * 200}" for number in range(99))]
    many, one = (
        json.dumps({"type": "subscribe", "events": each}).encode()
        for each in (patterns, patterns[:1])
    )
    with structlog.testing.capture_logs() as logs:
        await slow.stream.send_all(frame(TEXT, many) + frame(TEXT, one) * 100)
        await until(lambda: bool(logs))
    assert [(each["event"], each["reason"]) for each in logs] == [("client_dropped", "slow")]


@asynccontextmanager
async def slowly(server: Serving, query: str) -> AsyncIterator[RawClient]:
    """Connect a client with a small window."""
    client = RawClient(await server.raw())
    client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 32768)
    await client.open(f"/ws{query}")
    yield client


BUFFER = 100_000
SMALL = StreamLimits(ConnectionLimits(buffer_bytes=BUFFER))
LARGE_PAYLOAD = json.dumps("x" * 20_000)


async def test_a_slow_client_is_told_from_where_to_resume() -> None:
    async with (
        serving(limits=SMALL, send_buffer_bytes=BUFFER) as server,
        slowly(server, "?token=right") as slow,
    ):
        with structlog.testing.capture_logs() as logs:
            while not logs:
                server.publish(LARGE_PAYLOAD)
                await trio.lowlevel.checkpoint()
        newest = server.log.newest_id
        texts, code, reason = await slow.everything()
        got = [json.loads(text) for text in texts]
        last_id = got[-2]["id"]
        assert [each["id"] for each in got[1:-1]] == list(range(1, last_id + 1))
        assert (got[-1]["code"], got[-1]["since"]) == ("too_slow", last_id)
        assert (code, reason) == (1013, f"too slow: resume with since={last_id}")
        back = await server.welcomed(f"?token=right&since={last_id}")
        rest = [(await message(back))["id"] for _ in range(newest - last_id)]
        assert rest == list(range(last_id + 1, newest + 1))


async def test_cut_off_before_its_token_it_is_not_told_from_where_to_resume() -> None:
    async with serving(limits=SMALL, send_buffer_bytes=BUFFER) as server:
        server.publish(count=3)
        waiting = RawClient(await server.raw())
        await waiting.open("/ws")
        [served] = server.live._clients
        while served.connection.outlet.is_drained:
            served.connection.outlet.write_nowait(PING_FRAME * 1000)
        while not served.connection.outlet.is_drained:
            served.connection.outlet.write_nowait(PING_FRAME * 1000)
            await trio.lowlevel.checkpoint()
        texts, code, reason = await waiting.everything()
        assert "since" not in json.loads(texts[-1])
        assert (code, reason) == (1013, "too slow")


async def test_cut_off_while_it_catches_up_it_resumes_from_there() -> None:
    async with serving(limits=SMALL, send_buffer_bytes=BUFFER) as server:
        server.publish(LARGE_PAYLOAD, count=2000)
        async with slowly(server, "?token=right&since=10") as slow:
            await overflow(slow)
            texts, code, _ = await slow.everything()
        got = [json.loads(text) for text in texts]
        ids = [each["id"] for each in got if "id" in each]
        assert ids == list(range(11, 11 + len(ids)))
        assert len(ids) < 1990
        assert (got[-1]["since"], code) == (10 + len(ids), 1013)


async def test_cut_off_before_it_began_to_catch_up_it_resumes_from_where_it_asked() -> None:
    async with serving(limits=SMALL, recent_bytes=0, send_buffer_bytes=BUFFER) as server:
        server.publish(count=20)
        server.log.before_read = never
        async with slowly(server, "?token=right") as slow:
            server.publish(count=3)
            await slow.stream.send_all(frame(TEXT, b'{"type":"resume","since":7}'))
            await overflow(slow)
            texts, _, _ = await slow.everything()
        assert json.loads(texts[-1])["since"] == 7


async def test_who_is_answered_just_as_missed_events_come_is_not_too_slow() -> None:
    limits = StreamLimits(ConnectionLimits(buffer_bytes=CHUNK_BYTES // 2))
    async with serving(limits=limits, send_buffer_bytes=CHUNK_BYTES) as server:
        server.publish(LARGE_PAYLOAD, count=9)
        for _ in range(CONCURRENT_REPLAYS):
            await server.live._turns.acquire()
        client = RawClient(await server.raw())
        await client.open("/ws?token=right&since=0")
        await trio.testing.wait_all_tasks_blocked()
        [served] = server.live._clients
        while served.connection.outlet.is_drained:
            served.connection.outlet.write_nowait(PING_FRAME * 1000)
        for _ in range(CONCURRENT_REPLAYS):
            server.live._turns.release()
        got = [json.loads(await client.text()) for _ in range(11)]
        assert [each["id"] for each in got[1:-1]] == list(range(1, 10))
        assert got[-1]["type"] == "resumed"


async def test_one_event_larger_than_the_buffer_reaches_a_client_that_reads() -> None:
    limits = StreamLimits(ConnectionLimits(buffer_bytes=10_000))
    async with serving(limits=limits) as server:
        client = await server.welcomed()
        server.publish(json.dumps("x" * 900_000))
        server.publish()
        assert (await message(client))["id"] == 1
        assert (await message(client))["id"] == 2
