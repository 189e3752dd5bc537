"""What a token or a ticket shows of the stream, and who is logged."""

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
from tests.unit.serving import LIMITS, Serving, Tokens, ask, closing, message, serving
from tests.waiting import PATIENCE_SECONDS

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


async def test_limited_token_sees_only_its_types() -> None:
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
        assert (await message(client))["type"] == "resumed"  # nothing was missed


async def test_welcome_of_an_unlimited_token_names_no_types() -> None:
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
async def test_subscription_is_limited_to_visible_types(wanted: str, seen: list[str]) -> None:
    async with serving() as server:
        client = await server.welcomed(f"?token=tickets&events={wanted}")
        publish_all(server)
        assert await types_until_last(client) == seen


@pytest.mark.parametrize("wanted", ["user.created", "tickets.*", "ticket"])
async def test_invisible_types_cannot_be_subscribed_to(wanted: str) -> None:
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
        # Exactly the patterns that were named can be removed.
        assert await ask(client, type="unsubscribe", events=["*"]) == {
            "type": "unsubscribed",
            "events": [],
        }


async def test_wider_subscription_replays_visible_events() -> None:
    async with serving() as server:
        client = await server.welcomed("?token=tickets&events=ticket.created")
        publish_all(server)
        assert (await message(client))["type"] == "ticket.created"
        await ask(client, type="subscribe", events=["*"])
        await client.send_message('{"type":"resume","since":0}')
        seen = ["ticket.created", "ticket.message.added", "ticket.last"]
        assert await types_until_last(client) == seen


async def test_changed_token_closes_its_streams(
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


async def test_ticket_opens_one_stream() -> None:
    async with serving() as server:
        server.tokens.tickets["pgt_one"] = "tickets"
        client = await server.connect("?ticket=pgt_one&events=ticket.*")
        assert (await message(client))["visible"] == ["ticket.*"]
        again = await server.connect("?ticket=pgt_one")
        assert await closing(again) == (1008, "Invalid or expired ticket")
        assert await ask(client, type="ping") == {"type": "pong"}


@pytest.mark.parametrize("query", ["?ticket=", "?ticket=wrong", "?ticket=right"])
async def test_invalid_ticket_is_refused(query: str) -> None:
    async with serving() as server:
        client = await server.connect(query)
        assert await closing(client) == (1008, "Invalid or expired ticket")


async def test_revoked_token_closes_the_stream_of_its_ticket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "TOKENS_SECONDS", 0.01)
    async with serving() as server:
        server.tokens.tickets["pgt_one"] = "right"
        client = await server.welcomed("?ticket=pgt_one")
        del server.tokens.known["right"]
        assert await closing(client) == (1008, "API token revoked or expired")


@pytest.mark.parametrize("is_locked", [False, True], ids=["away", "locked"])
async def test_unreadable_token_table_does_not_delay_the_other(
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
        with trio.fail_after(PATIENCE_SECONDS):
            await asked.wait()
        del tokens.known["right"]
        assert await closing(ours) == (1008, "API token revoked or expired")
        assert await ask(bots, type="ping") == {"type": "pong"}


# --- identity of the client


async def test_too_many_failed_attempts_close_with_1013() -> None:
    class Strict(Tokens):
        async def authenticate(self, token: str, address: str = "") -> Grant | None:
            raise TooManyFailuresError(30)

    async with serving(tokens=Strict()) as server:
        client = await server.connect()
        assert await closing(client) == (1013, "Too many failed attempts, try again later")


async def test_only_trusted_proxies_report_client_addresses() -> None:
    from ipaddress import ip_network

    forwarded = [(b"X-Forwarded-For", b"6.6.6.6"), (b"X-Forwarded-For", b"198.51.100.1")]

    async def addresses(*proxies: Network) -> list[str]:
        limits = replace(LIMITS, proxies=proxies)
        async with serving(limits=limits) as server:
            await message(await server.connect("?token=right", forwarded))
            await closing(await server.connect("?ticket=wrong", forwarded))
            return server.tokens.addresses

    assert await addresses() == ["127.0.0.1"] * 2
    assert await addresses(ip_network("127.0.0.0/8")) == ["198.51.100.1"] * 2


async def test_access_log_names_clients_without_tokens() -> None:
    async with serving(access_log=True) as server:
        with structlog.testing.capture_logs() as logs:
            client = await server.welcomed("?token=right")
            await client.aclose()
            with trio.fail_after(PATIENCE_SECONDS):
                await server.until_clients(0)
        refused = await server.connect("?token=wrong")
        await closing(refused)
    events = [entry for entry in logs if entry["event"].startswith("client_")]
    assert [(entry["event"], entry["token"]) for entry in events] == [
        ("client_connected", "bridge token 1 (right)"),
        ("client_disconnected", "bridge token 1 (right)"),
    ]
    assert events[0]["address"] == "127.0.0.1"
    assert events[0]["client"] == events[1]["client"]
