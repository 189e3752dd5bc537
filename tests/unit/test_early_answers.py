"""Receivers that respond to the head of a request, while a large body is still being sent."""

import ssl
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trustme

from bridge.delivery import transport
from bridge.delivery.retry import Answer, Failure
from tests.unit.test_transport import Server, made, serving
from tests.waiting import PATIENCE_SECONDS

#: More than fits into the buffers of two sockets.
BODY = b"x" * 20_000_000


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LATE_BODY_SECONDS", 0.05)


Afterwards = Callable[[trio.abc.Stream], Awaitable[object]]


async def close(stream: trio.abc.Stream) -> None:
    """Close the connection with the body unread, which resets it."""
    await stream.aclose()


async def keep_open(_stream: trio.abc.Stream) -> None:
    """Neither read on nor close."""
    await trio.sleep_forever()


async def read_on(stream: trio.abc.Stream) -> None:
    """Read the body after all."""
    while await stream.receive_some(1_000_000):
        pass


async def respond(
    response: bytes, afterwards: Afterwards, _server: Server, stream: trio.abc.Stream, _number: int
) -> None:
    received = b""
    while b"\r\n\r\n" not in received:
        received += await stream.receive_some(1)
    await stream.send_all(response)
    await afterwards(stream)


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a receiver and of a client that trusts it."""
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("receiver.test").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    return server_side, client_side


async def post(response: bytes, afterwards: Afterwards, *, tls: bool = False) -> Answer:
    """Post a large body to a receiver that responds early."""
    server_side, client_side = contexts() if tls else (None, None)
    with trio.fail_after(PATIENCE_SECONDS):
        async with serving(partial(respond, response, afterwards), server_side) as server:
            return await made(tls=client_side).post(
                f"http{'s' * tls}://receiver.test:{server.port}/",
                headers=b"",
                body=BODY,
                deadline_seconds=60.0,
            )


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("afterwards", [close, keep_open, read_on])
@pytest.mark.parametrize("status", [200, 302, 413, 503])
async def test_early_response_counts(status: int, afterwards: Afterwards, tls: bool) -> None:
    head = f"HTTP/1.1 {status} Early\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\n".encode()
    answer = await post(head + b"said", afterwards, tls=tls)
    assert answer == Answer(status, "said", retry_after="7" if status == 503 else None)


@pytest.mark.parametrize("afterwards", [close, read_on])
async def test_response_without_a_length_ends_with_the_connection(afterwards: Afterwards) -> None:
    async def end(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        await stream.send_eof()
        await afterwards(stream)

    answer = await post(b"HTTP/1.1 401 No\r\n\r\nwho are you?", end)
    assert (answer.status, answer.body, answer.failure) == (401, "who are you?", None)


async def test_interim_responses_do_not_stop_the_body() -> None:
    received = 0

    async def read_and_respond(stream: trio.abc.Stream) -> None:
        nonlocal received
        while received < len(BODY):
            received += len(await stream.receive_some(1_000_000))
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nread")

    interim = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n"
    assert await post(interim, read_and_respond) == Answer(200, "read")
    assert received == len(BODY)


async def test_connection_is_not_reused_after_half_a_body() -> None:
    response = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
    with trio.fail_after(PATIENCE_SECONDS):
        async with serving(partial(respond, response, keep_open)) as server:
            client = made()
            for _ in range(2):
                answer = await client.post(
                    f"http://receiver.test:{server.port}/",
                    headers=b"",
                    body=BODY,
                    deadline_seconds=60.0,
                )
                assert answer == Answer(413, "")
            assert server.connections == 2


@pytest.mark.parametrize("response", [b"", b"HTTP/1.1 200 OK\r\nContent-"], ids=["none", "half"])
async def test_receiver_that_closes_without_a_response_is_lost(response: bytes) -> None:
    answer = await post(response, close)
    # Half a head may be noticed before the loss.
    assert answer.failure is Failure.LOST or (response and answer.failure is Failure.PROTOCOL)
    assert answer.status is None
    assert answer.error
    assert "Errno" not in answer.error
