"""A client gets the events it selects, and an error for an invalid selection."""

from typing import Any

import pytest
from trio_websocket import WebSocketConnection

from tests.unit.serving import Serving, ask, message, serving


async def types_until(client: WebSocketConnection, last: str) -> list[str]:
    """Receive events until one of a type; return all types."""
    types: list[str] = []
    while not types or types[-1] != last:
        types.append((await message(client))["type"])
    return types


def publish(server: Serving, *event_types: str) -> None:
    for event_type in event_types:
        server.publish(event_type=event_type)


async def test_default_is_every_event() -> None:
    async with serving() as server:
        client = await server.welcomed()
        publish(server, "user.created", "ticket.created", "end")
        assert await types_until(client, "end") == ["user.created", "ticket.created", "end"]


async def test_url_selects_events() -> None:
    async with serving() as server:
        client = await server.welcomed("?token=right&events=ticket.*,%20end")
        publish(server, "user.created", "ticket.created", "ticketing", "ticket.a.b", "end")
        assert await types_until(client, "end") == ["ticket.created", "ticket.a.b", "end"]


async def test_first_subscription_narrows_and_later_ones_add() -> None:
    async with serving() as server:
        client = await server.welcomed()
        assert await ask(client, type="subscribe", events=["end"]) == {
            "type": "subscribed",
            "events": ["end"],
        }
        publish(server, "user.created")
        assert await ask(client, type="subscribe", events=["ticket.*", "end"]) == {
            "type": "subscribed",
            "events": ["end", "ticket.*"],
        }
        publish(server, "user.created", "ticket.created", "end")
        assert await types_until(client, "end") == ["ticket.created", "end"]


async def test_unsubscribed_events_are_not_sent() -> None:
    async with serving() as server:
        client = await server.welcomed("?token=right&events=a,b,end")
        assert await ask(client, type="unsubscribe", events=["a"]) == {
            "type": "unsubscribed",
            "events": ["b", "end"],
        }
        publish(server, "a", "b", "end")
        assert await types_until(client, "end") == ["b", "end"]
        assert (await ask(client, type="unsubscribe", events=["b", "end"]))["events"] == []
        publish(server, "a", "b", "end")
        assert await ask(client, type="ping") == {"type": "pong"}, "nothing was sent before it"


async def test_all_events_can_be_unsubscribed_and_subscribed_again() -> None:
    async with serving() as server:
        client = await server.welcomed()
        assert (await ask(client, type="unsubscribe", events=["*"]))["events"] == []
        publish(server, "a")
        assert (await ask(client, type="subscribe", events=["*"]))["events"] == ["*"]
        publish(server, "b")
        assert (await message(client))["type"] == "b"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"type": "subscribe"}, "bad_events"),
        ({"type": "subscribe", "events": []}, "bad_events"),
        ({"type": "subscribe", "events": "ticket.*"}, "bad_events"),
        ({"type": "subscribe", "events": {"ticket.*": 1}}, "bad_events"),
        ({"type": "subscribe", "events": ["ticket.**"]}, "bad_events"),
        ({"type": "subscribe", "events": ["ok", 7]}, "bad_events"),
        ({"type": "subscribe", "events": [["nested"]]}, "bad_events"),
        ({"type": "subscribe", "events": ["x" * 256]}, "bad_events"),
        ({"type": "subscribe", "events": ["\ud800"]}, "bad_events"),
        ({"type": "subscribe", "events": [f"t{each}" for each in range(101)]}, "bad_events"),
        ({"type": "subscribe", "events": [f"t{each}" for each in range(100)]}, "bad_events"),
        ({"type": "unsubscribe", "events": ["never"]}, "not_subscribed"),
        ({"type": "unsubscribe", "events": []}, "bad_events"),
        ({"type": "resume"}, "bad_since"),
        ({"type": "resume", "since": -1}, "bad_since"),
        ({"type": "resume", "since": 2**63}, "bad_since"),
        ({"type": "resume", "since": "1"}, "bad_since"),
        ({"type": "resume", "since": 1.0}, "bad_since"),
        ({"type": "resume", "since": True}, "bad_since"),
        ({"type": "auth", "token": "right"}, "already_authenticated"),
        ({"type": ["ping"]}, "unknown_type"),
        ({"type": None}, "unknown_type"),
    ],
    ids=str,
)
async def test_invalid_request_changes_nothing(request_: dict[str, Any], code: str) -> None:
    async with serving() as server:
        client = await server.welcomed("?token=right&events=mine")
        answer = await ask(client, **request_)
        assert (answer["type"], answer["code"]) == ("error", code)
        assert answer["message"]
        publish(server, "other", "mine")
        assert (await message(client))["type"] == "mine"


async def test_invalid_url_parameters_are_reported_and_ignored() -> None:
    async with serving() as server:
        client = await server.welcomed("?token=right&events=a,,b&since=yesterday")
        assert (await message(client))["code"] == "bad_events"
        assert (await message(client))["code"] == "bad_since"
        publish(server, "anything")
        assert (await message(client))["type"] == "anything"
