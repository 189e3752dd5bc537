"""What the holder of a token sees of the stream, and of a ticket."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
import structlog
import trio
from trio_websocket import WebSocketConnection

from bridge.access.authenticator import TooManyFailuresError
from bridge.access.proxies import Network
from bridge.access.scopes import EVENTS_READ
from bridge.access.tokens import Grant, TokenKey
from bridge.database.errors import DatabaseUnavailable
from bridge.live import stream
from bridge.live.stream import StreamLimits
from tests.unit.serving import LIMITS, Serving, Tokens, ask, closing, message, serving

TYPES = ("user.created", "ticket.created", "ticket.message.added", "tickets.closed")


def publish_all(server: Serving) -> None:
    for event_type in TYPES:
        server.publish(event_type=event_type)
    server.publish(event_type="ticket.last")


async def types_until_last(client: WebSocketConnection) -> list[str]:
    seen: list[str] = []
    while "ticket.last" not in seen:
        got = await message(client)
        if "payload" in got:
            seen.append(got["type"])
    return seen


async def test_a_token_for_some_types_gets_only_these_live_and_when_it_resumes() -> None:
    seen = ["ticket.created", "ticket.message.added", "ticket.last"]
    async with serving() as server:
        client = await server.connect("?token=tickets")
        assert (await message(client))["visible"] == ["ticket.*"]
        publish_all(server)
        assert await types_until_last(client) == seen
        await server.connect("?token=tickets&since=0")
        again = await server.welcomed("?token=tickets&since=0")
        assert await types_until_last(again) == seen
        assert (await message(again))["type"] == "resumed"
        await client.send_message('{"type":"resume","since":0}')
        assert (await message(client))["type"] == "resumed"  # it has had all of it


async def test_who_sees_everything_is_told_nothing_of_it() -> None:
    async with serving() as server:
        client = await server.connect()
        assert "visible" not in await message(client)


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        ("*", ["ticket.created", "ticket.message.added", "ticket.last"]),
        ("ticket.*", ["ticket.created", "ticket.message.added", "ticket.last"]),
        ("ticket.message.*,ticket.last", ["ticket.message.added", "ticket.last"]),
    ],
)
async def test_it_chooses_within_what_it_may_see(wanted: str, seen: list[str]) -> None:
    async with serving() as server:
        client = await server.welcomed(f"?token=tickets&events={wanted}")
        publish_all(server)
        assert await types_until_last(client) == seen


@pytest.mark.parametrize("wanted", ["user.created", "tickets.*", "ticket"])
async def test_what_it_may_not_see_it_cannot_subscribe_to(wanted: str) -> None:
    async with serving() as server:
        client = await server.welcomed("?token=tickets")
        answer = await ask(client, type="subscribe", events=["ticket.created", wanted])
        assert answer == {
            "type": "error",
            "code": "forbidden",
            "message": f"this token does not see {wanted}",
        }
        assert await ask(client, type="subscribe", events=["*"]) == {
            "type": "subscribed",
            "events": ["*"],
        }
        publish_all(server)
        assert "user.created" not in await types_until_last(client)
        # What it has named it can take back.
        assert await ask(client, type="unsubscribe", events=["*"]) == {
            "type": "unsubscribed",
            "events": [],
        }


async def test_who_subscribes_to_more_catches_up_with_what_it_may_see() -> None:
    async with serving() as server:
        client = await server.welcomed("?token=tickets&events=ticket.created")
        publish_all(server)
        assert (await message(client))["type"] == "ticket.created"
        await ask(client, type="subscribe", events=["*"])
        await client.send_message('{"type":"resume","since":0}')
        seen = ["ticket.created", "ticket.message.added", "ticket.last"]
        assert await types_until_last(client) == seen


async def test_who_may_see_other_events_now_has_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "TOKENS_SECONDS", 0.01)
    async with serving() as server:
        client = await server.welcomed("?token=tickets")
        other = await server.welcomed("?token=other")
        server.tokens.known["tickets"] = Grant(4, "tickets", frozenset(["events:read:user.*"]))
        assert await closing(client) == (1001, "API token changed, connect again")
        assert await ask(other, type="ping") == {"type": "pong"}


# --- tickets


async def test_a_ticket_opens_one_stream() -> None:
    async with serving() as server:
        server.tokens.tickets["pgt_one"] = "tickets"
        client = await server.connect("?ticket=pgt_one&events=ticket.*")
        assert (await message(client))["visible"] == ["ticket.*"]
        again = await server.connect("?ticket=pgt_one")
        assert await closing(again) == (1008, "Invalid or expired ticket")
        assert await ask(client, type="ping") == {"type": "pong"}


@pytest.mark.parametrize("query", ["?ticket=", "?ticket=wrong", "?ticket=right"])
async def test_what_is_no_ticket_opens_nothing(query: str) -> None:
    async with serving() as server:
        client = await server.connect(query)
        assert await closing(client) == (1008, "Invalid or expired ticket")


async def test_a_stream_ends_when_the_token_of_its_ticket_is_revoked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "TOKENS_SECONDS", 0.01)
    async with serving() as server:
        server.tokens.tickets["pgt_one"] = "right"
        client = await server.welcomed("?ticket=pgt_one")
        del server.tokens.known["right"]
        assert await closing(client) == (1008, "API token revoked or expired")


@pytest.mark.parametrize("is_locked", [False, True], ids=["away", "locked"])
async def test_a_table_that_cannot_be_read_keeps_nobody_whose_token_is_in_the_other(
    monkeypatch: pytest.MonkeyPatch, is_locked: bool
) -> None:
    asked = trio.Event()

    class BotsAway(Tokens):
        async def grants(self, keys: Iterable[TokenKey]) -> list[Grant]:
            wanted = set(keys)
            if any(source == "bot" for source, _ in wanted):
                asked.set()
                if is_locked:
                    await trio.sleep_forever()
                raise DatabaseUnavailable("the bot's tokens cannot be read")
            return await super().grants(wanted)

    monkeypatch.setattr(stream, "TOKENS_SECONDS", 0.01)
    tokens = BotsAway()
    tokens.known["bots"] = Grant(1, "bots", frozenset([EVENTS_READ]), "bot")
    async with serving(tokens=tokens) as server:
        bots = await server.welcomed("?token=bots")
        ours = await server.welcomed("?token=right")
        with trio.fail_after(10):
            await asked.wait()
        del tokens.known["right"]
        assert await closing(ours) == (1008, "API token revoked or expired")
        assert await ask(bots, type="ping") == {"type": "pong"}


# --- who it is


async def test_who_guesses_too_often_is_told_to_come_later() -> None:
    class Strict(Tokens):
        async def authenticate(self, token: str, address: str) -> Grant | None:
            raise TooManyFailuresError(30)

    async with serving(tokens=Strict()) as server:
        client = await server.connect()
        assert await closing(client) == (1013, "Too many failed attempts, try again later")


async def test_only_a_named_proxy_says_where_a_client_is() -> None:
    from ipaddress import ip_network

    forwarded = [(b"X-Forwarded-For", b"6.6.6.6"), (b"X-Forwarded-For", b"198.51.100.1")]

    async def addresses(*proxies: Network) -> list[str]:
        limits = StreamLimits(replace(LIMITS.connection, proxies=proxies))
        async with serving(limits=limits) as server:
            await message(await server.connect("?token=right", forwarded))
            await closing(await server.connect("?ticket=wrong", forwarded))
            return server.tokens.addresses

    assert await addresses() == ["127.0.0.1"] * 2
    assert await addresses(ip_network("127.0.0.0/8")) == ["198.51.100.1"] * 2


async def test_the_access_log_tells_who_comes_and_goes_and_no_token() -> None:
    async with serving(access_log=True) as server:
        with structlog.testing.capture_logs() as logs:
            client = await server.welcomed("?token=right")
            await client.aclose()
            with trio.fail_after(10):
                await server.until_clients(0)
        refused = await server.connect("?token=wrong")
        await closing(refused)
    events = [entry for entry in logs if entry["event"].startswith("client_")]
    assert [(entry["event"], entry["token"]) for entry in events] == [
        ("client_connected", "bridge token 1 (right)"),
        ("client_left", "bridge token 1 (right)"),
    ]
    assert events[0]["address"] == "127.0.0.1"
    assert events[0]["client"] == events[1]["client"]
