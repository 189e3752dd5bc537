"""How `pgbridge tail` handles failing connections."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio
import trustme
from trio_websocket import WebSocketConnection, wrap_server_stream

from bridge.tail import follower as module
from bridge.tail.address import Address, parse_address
from bridge.tail.follower import Follower, TailError
from bridge.tail.messages import Gap, Message, Notice, StreamEvent
from tests.unit.serving import serving
from tests.waiting import PATIENCE_SECONDS

WELCOME = '{"type": "connection", "last_event_id": %d}'
EVENT = '{"type":"t","payload":{},"timestamp":"2026-01-15T10:30:00.123456Z","id":%d}'
Converse = Callable[[WebSocketConnection, str], Awaitable[None]]


@asynccontextmanager
async def following(
    address: Address, **options: Any
) -> AsyncIterator[trio.MemoryReceiveChannel[Message]]:
    """Follow during the context; yield the channel of messages."""
    sending, receiving = trio.open_memory_channel[Message](0)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Follower(address, "right", **options).run, sending)
            yield receiving
            nursery.cancel_scope.cancel()


async def failure(address: Address) -> str:
    """Return why a stream cannot be followed."""
    sending, _ = trio.open_memory_channel[Message](10)
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(TailError) as error:
        await Follower(address, "right").run(sending)
    return str(error.value)


@asynccontextmanager
async def scripted(*connections: Converse) -> AsyncIterator[Address]:
    """Serve one connection per script; each ends with its script."""
    scripts = iter(connections)

    async def serve(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            websocket = await request.accept()
            await next(scripts)(websocket, request.path)
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()

    async with listening(serve) as address:
        yield address


@asynccontextmanager
async def listening(
    serve: Callable[[trio.SocketStream], Awaitable[None]],
) -> AsyncIterator[Address]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield Address("127.0.0.1", listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def test_silent_bridge_is_considered_dead() -> None:
    async def silent(websocket: WebSocketConnection, _path: str) -> None:
        await websocket.send_message(WELCOME % 3)
        await trio.sleep_forever()

    async def alive(websocket: WebSocketConnection, path: str) -> None:
        assert path == "/ws?since=3"
        await websocket.send_message(WELCOME % 4)
        await websocket.send_message(EVENT % 4)
        await trio.sleep_forever()

    async with (
        scripted(silent, alive) as address,
        following(address, silence_seconds=1.0) as messages,
    ):
        assert await messages.receive() == Notice(f"following {address} after event 3")
        assert await messages.receive() == Notice(
            "connection lost (the bridge is gone); reconnecting"
        )
        assert await messages.receive() == Notice("reconnected; following after event 3")
        event = await messages.receive()
        assert isinstance(event, StreamEvent)
        assert (event.id, event.text) == (4, EVENT % 4)


async def test_follower_resumes_after_the_last_known_id() -> None:
    async def script(path: str, *texts: str) -> Converse:
        async def converse(websocket: WebSocketConnection, asked: str) -> None:
            assert asked == path
            for text in texts:
                await websocket.send_message(text)
            await websocket.aclose(1013, "next")

        return converse

    def gap(since: int, available_from: int) -> str:
        return f'{{"type":"gap","since":{since},"available_from":{available_from}}}'

    too_slow = '{"type":"error","code":"too_slow","message":"m","since":1}'
    query = "/ws?events=a.*,b&since="
    async with (
        scripted(
            await script("/ws?events=a.*,b", WELCOME % 5, '{"type":"news"}', EVENT % 7, EVENT % 6),
            await script(f"{query}7", WELCOME % 9, EVENT % 7, '{"type":"resumed","to":9}'),
            await script(f"{query}9", WELCOME % 9, gap(9, 20), too_slow),
            await script(f"{query}19", WELCOME % 2, gap(19, 3), EVENT % 3),
            await script(f"{query}3", WELCOME % 3, EVENT % 4),
        ) as address,
        following(address, patterns=("a.*", "b")) as messages,
    ):
        known: list[object] = []
        while known[-1:] != [4]:
            match await messages.receive():
                case StreamEvent(id=event_id):
                    known.append(event_id)
                case Gap(since=since, available_from=available_from):
                    known.append((since, available_from))
        assert known == [7, (9, 20), (19, 3), 3, 4]


async def test_follower_reads_nothing_while_its_reader_waits() -> None:
    async with (
        serving() as server,
        following(Address("127.0.0.1", server.port), since=0) as messages,
    ):
        await messages.receive()
        # Far more than a socket holds.
        for _ in range(200):
            server.publish('"' + "x" * 100_000 + '"')
            await trio.lowlevel.checkpoint()
        ids: list[int] = []
        notices = ""
        while len(ids) < 200:
            match await messages.receive():
                case StreamEvent(id=event_id):
                    ids.append(event_id)
                case Notice(line=line):
                    notices += line
        assert ids == list(range(1, 201))
        assert "connection lost (too slow: resume with since=" in notices


async def test_server_that_is_no_bridge_is_named() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.aclose()

    async def greet(websocket: WebSocketConnection, _path: str) -> None:
        await websocket.send_message('{"hello": "world"}')
        await trio.sleep_forever()

    async with listening(hang_up) as address:
        assert f"cannot follow {address}: the server hung up;" in await failure(address)
    async with scripted(greet) as address:
        assert await failure(address) == f"{address} is not the stream of a pgbridge"


async def test_rejected_filter_ends_the_follower() -> None:
    async def refuse(websocket: WebSocketConnection, _path: str) -> None:
        await websocket.send_message(WELCOME % 0)
        await websocket.send_message('{"type":"error","code":"bad_events","message":"no such"}')
        await trio.sleep_forever()

    async with scripted(refuse) as address:
        assert await failure(address) == f"{address} refuses: no such"


async def test_oversized_event_ends_the_follower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MESSAGE_BYTES", 1024 * 1024)

    async def send(websocket: WebSocketConnection, _path: str) -> None:
        await websocket.send_message(WELCOME % 8)
        await websocket.send_message("x" * (1024 * 1024 + 1))
        await trio.sleep_forever()

    async with scripted(send) as address:
        assert "an event after 8 is larger than 1 MiB" in await failure(address)


@contextmanager
def trusting(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with authority.cert_pem.tempfile() as path, monkeypatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", path)
        yield


async def test_tls_certificate_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def serve(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        with trio.move_on_after(20):
            try:
                async with trio.open_nursery() as nursery:
                    request = await wrap_server_stream(nursery, tls)
                    websocket = await request.accept()
                    await websocket.send_message(WELCOME % 1)
                    await trio.sleep_forever()
            except* trio.BrokenResourceError:
                pass
            finally:
                await trio.aclose_forcefully(stream)

    async with listening(serve) as plain:
        address = Address(plain.host, plain.port, tls=True)
        with trusting(trustme.CA(), monkeypatch):
            assert "certificate verify failed" in await failure(address)
        with trusting(authority, monkeypatch):
            async with following(address) as messages:
                assert await messages.receive() == Notice(f"following {address} after event 1")


def test_addresses_are_parsed_and_formatted() -> None:
    for url, expected in [
        ("ws://h", "ws://h:80/ws"),
        ("wss://h/", "wss://h:443/ws"),
        ("ws://[::1]:8080/a/b", "ws://[::1]:8080/a/b"),
        ("WSS://Example.ORG:0", "wss://example.org:0/ws"),
    ]:
        assert str(parse_address(url)) == expected
