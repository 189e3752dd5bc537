"""Which clients the stream admits, and when it closes them again."""

import json

import pytest
import trio
from trio_websocket import ConnectionClosed

from bridge.access.scopes import WEBHOOKS_READ
from bridge.access.tokens import Grant
from bridge.database.errors import DatabaseUnavailable
from bridge.live import stream
from bridge.live.connection import StreamLimits
from tests.unit.serving import (
    RawClient,
    Tokens,
    ask,
    closing,
    dropping,
    message,
    serving,
)
from tests.waiting import until


async def test_first_message_may_carry_the_token() -> None:
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
        ("[" * 7_000, "Missing API token"),
    ],
    ids=range(7),
)
async def test_first_message_without_a_valid_token_closes(first: str, reason: str) -> None:
    async with serving() as server:
        client = await server.connect("")
        await client.send_message(first)
        assert await closing(client) == (1008, reason)


async def test_oversize_first_message_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TOKEN_SECONDS", 0.2)
    async with serving() as server:
        client = await server.connect("")
        await client.send_message(json.dumps({"type": "auth", "token": "right", "x": "x" * 9000}))
        assert await closing(client) == (1008, "Missing API token")


async def test_messages_behind_the_token_may_be_large() -> None:
    async with serving() as server:
        client = await server.connect("")
        patterns = [f"{number}{'x' * 200}" for number in range(100)]
        await client.send_message('{"type":"auth","token":"right"}')
        await client.send_message(json.dumps({"type": "subscribe", "events": patterns}))
        assert (await message(client))["type"] == "connection"
        assert (await message(client))["events"] == sorted(patterns)


async def test_nothing_is_sent_before_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TOKEN_SECONDS", 0.2)
    async with serving() as server:
        client = await server.connect("")
        server.publish()
        with pytest.raises(ConnectionClosed, match="Missing API token"):
            await client.get_message()


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check tokens again after a moment."""
    monkeypatch.setattr(stream, "TOKENS_SECONDS", 0.01)


def test_tokens_are_checked_often_enough() -> None:
    assert stream.TOKENS_SECONDS <= 2.5, "revoked tokens end within 5 s"


@pytest.mark.usefixtures("quickly")
async def test_revoked_token_closes_its_streams() -> None:
    with dropping(revoked=2):
        async with serving() as server:
            revoked = [await server.welcomed() for _ in range(2)]
            other = await server.welcomed("?token=other")
            del server.tokens.known["right"]
            for client in revoked:
                assert await closing(client) == (1008, "API token revoked or expired")
            server.publish()
            assert (await message(other))["id"] == 1


@pytest.mark.usefixtures("quickly")
async def test_token_without_its_scope_closes_its_streams() -> None:
    async with serving() as server:
        client = await server.welcomed()
        server.tokens.known["right"] = Grant(1, "right", frozenset([WEBHOOKS_READ]))
        assert await closing(client) == (1008, "API token revoked or expired")


@pytest.mark.usefixtures("quickly")
async def test_clients_stay_while_the_database_is_unavailable() -> None:
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
async def test_static_token_is_not_checked_again() -> None:
    tokens = Tokens()
    tokens.known["static"] = Grant(None, "BRIDGE_TOKEN", frozenset(["admin"]), "setting")
    async with serving(tokens=tokens) as server:
        static, other = await server.welcomed("?token=static"), await server.welcomed()
        del tokens.known["right"], tokens.known["static"]
        assert (await closing(other))[0] == 1008
        assert await ask(static, type="ping") == {"type": "pong"}


async def test_clients_above_the_limit_are_refused() -> None:
    async with serving(limits=StreamLimits(clients=2)) as server:
        first, second = await server.welcomed(), await server.welcomed("?token=other")
        assert await closing(await server.connect()) == (1013, "Too many connections")
        await first.aclose()
        await server.until_clients(1)
        third = await server.welcomed()
        server.publish()
        assert (await message(second))["id"] == (await message(third))["id"] == 1


async def test_unauthenticated_clients_cannot_crowd_out_others() -> None:
    async with serving(limits=StreamLimits(clients=2)) as server:
        silent = [await server.connect("") for _ in range(2)]
        assert await closing(await server.connect("")) == (1013, "Too many connections")
        client = await server.welcomed()
        assert (await ask(silent[0], type="auth", token="right"))["type"] == "connection"
        await silent[1].send_message('{"type":"auth","token":"right"}')
        assert await closing(silent[1]) == (1013, "Too many connections")
        server.publish()
        assert (await message(client))["id"] == 1


async def test_client_that_leaves_is_forgotten() -> None:
    async with serving() as server:
        polite, rude = await server.welcomed(), RawClient(await server.raw())
        await rude.open()
        await until(lambda: server.followers == 2)
        await polite.aclose()
        await rude.stream.aclose()
        await until(lambda: server.followers == 0)
        await server.until_clients(0)


async def test_clients_above_the_limit_per_token_are_refused() -> None:
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


async def test_any_origin_may_connect_by_default() -> None:
    async with serving() as server:
        client = await server.connect(headers=[(b"Origin", b"https://anywhere.example")])
        assert (await message(client))["type"] == "connection"
