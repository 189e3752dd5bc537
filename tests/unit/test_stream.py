"""The stream as a well-behaved client sees it."""

import httpx
import pytest
import trio

from bridge.access.tokens import Grant
from bridge.database.errors import DatabaseUnavailable
from tests.unit.serving import RawClient, Tokens, closing, dropping, message, serving


@pytest.mark.parametrize("query", ["?token=right", "?api_key=right", "?x=1&token=right"])
async def test_token_in_the_query_is_accepted(query: str) -> None:
    async with serving() as server:
        server.publish(count=3)
        client = await server.connect(query)
        assert await message(client) == {
            "type": "connection",
            "status": "connected",
            "message": "WebSocket connection established",
            "last_event_id": 3,
        }


@pytest.mark.parametrize("header", [(b"Authorization", b"Bearer right"), (b"X-API-Key", b"right")])
async def test_token_in_a_header_is_accepted(header: tuple[bytes, bytes]) -> None:
    async with serving() as server:
        client = await server.connect("", headers=[header])
        assert (await message(client))["status"] == "connected"


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("?token=", "Missing API token"),
        ("?token=wrong", "Invalid or expired API token"),
        ("?token=blind", "This API token does not have the scope events:read"),
        ("?api_key=%00%ff", "Invalid or expired API token"),
    ],
)
async def test_invalid_token_is_closed_with_1008(query: str, reason: str) -> None:
    async with serving() as server:
        assert await closing(await server.connect(query)) == (1008, reason)


async def test_unavailable_database_closes_with_1013() -> None:
    class Away(Tokens):
        async def authenticate(self, token: str, address: str = "") -> Grant | None:
            raise DatabaseUnavailable("gone")

    async with serving(tokens=Away()) as server:
        client = RawClient(await server.raw())
        await client.open()
        assert await client.close_code() == 1013


async def test_events_arrive_in_order_with_unchanged_payload() -> None:
    async with serving() as server:
        client = await server.connect()
        await message(client)
        server.publish('{"name": "Иван 🎉", "n": 1.50}', count=3)
        got = [await message(client) for _ in range(3)]
        assert [each["id"] for each in got] == [1, 2, 3]
        assert got[0]["type"] == "test.event"
        assert got[0]["payload"] == {"name": "Иван 🎉", "n": 1.5}
        assert got[0]["timestamp"].endswith("Z")


async def test_invalid_message_gets_an_error_and_nothing_closes() -> None:
    async with serving() as server:
        client = await server.connect()
        await message(client)
        exchanges: list[tuple[str | bytes, str, str | None]] = [
            ('{"type":"ping"}', "pong", None),
            ("nonsense", "error", "bad_json"),
            ('{"type":"fly"}', "error", "unknown_type"),
            ("[1]", "error", "unknown_type"),
            ("[" * 30_000, "error", "bad_json"),
            (b"\xff\xfe", "error", "bad_json"),
            (b'{"type":"ping"}', "pong", None),
        ]
        for sent, kind, code in exchanges:
            await client.send_message(sent)
            answer = await message(client)
            assert (answer["type"], answer.get("code")) == (kind, code)


async def test_websocket_pings_are_answered_between_events() -> None:
    async with serving() as server:
        client = await server.connect()
        await message(client)
        server.publish(count=10)
        await client.ping()
        assert [(await message(client))["id"] for _ in range(10)] == list(range(1, 11))


async def test_rest_and_stream_share_the_port() -> None:
    async with serving() as server, httpx.AsyncClient(trust_env=False) as http:
        base = f"http://127.0.0.1:{server.port}"
        assert (await http.get(f"{base}/hello")).json() == {"hello": "world"}
        assert (await http.get(f"{base}/wsx")).status_code == 404
        assert (await http.post(f"{base}/ws")).status_code == 404
        assert (await http.get(f"{base}/ws")).status_code == 400, "no WebSocket handshake"
        assert (await http.get(f"{base}/hello")).json() == {"hello": "world"}


async def test_request_may_arrive_in_pieces() -> None:
    async with serving() as server:
        stream = await server.raw()
        for piece in (b"G", b"ET /", b"hel", b"lo HTTP/1.1\r\nHost: x\r\n\r\n"):
            await stream.send_all(piece)
            await trio.testing.wait_all_tasks_blocked(0.005)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")


async def test_stop_closes_clients_with_1001() -> None:
    with dropping(stopping=3):
        async with serving() as server:
            clients = [await server.welcomed() for _ in range(3)]
            server.nursery.start_soon(server.live.stop)
            for client in clients:
                assert (await closing(client))[0] == 1001


async def test_log_that_went_back_closes_clients_with_1001() -> None:
    with dropping(event_log_rewound=1):
        async with serving() as server:
            client = await server.welcomed()
            server.live.start_over(0)
            assert await closing(client) == (1001, "the database went back in time")


async def test_handshake_after_the_stop_is_closed_with_1001() -> None:
    async with serving() as server:
        late = RawClient(await server.raw())
        await server.live.stop()
        await late.open()
        assert await late.everything() == ([], 1001, "the bridge is shutting down")
