"""One request to a receiver, whatever the receiver does."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
import trustme

from bridge.access.heads import MOST_HEADERS
from bridge.delivery.resolve import BlockedAddressError, UnresolvableError
from bridge.delivery.retry import Answer, Failure
from bridge.delivery.transport import RESPONSE_BYTES, RESPONSE_PIECES, Transport
from bridge.delivery.url import parse_url
from tests.waiting import PATIENCE_SECONDS

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Server:
    """A receiver that handles each connection as the test wants."""

    port: int
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    async def request(self, stream: trio.abc.Stream) -> bytes:
        """Read one complete request; every test sends the body ``{}``."""
        received = b""
        while not received.endswith(b"\r\n\r\n{}"):
            more = await stream.receive_some()
            if not more:
                raise trio.BrokenResourceError
            received += more
        self.requests.append(received)
        return received


@asynccontextmanager
async def serving(
    serve: Callable[[Server, trio.abc.Stream, int], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Server]:
    """Run a receiver for the duration of the context."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = Server(listener.socket.getsockname()[1])

    async def handle(stream: trio.SocketStream) -> None:
        server.connections += 1
        number = server.connections
        end = trio.SSLStream(stream, tls, server_side=True) if tls else stream
        try:
            await serve(server, end, number)
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(end)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield server
        while _made:
            with _made.pop():
                pass  # closed with the end of this
        nursery.cancel_scope.cancel()


async def answering(server: Server, stream: trio.abc.Stream, _number: int) -> None:
    """Answer every request on the same connection."""
    while True:
        await server.request(stream)
        await stream.send_all(OK)


async def local(_host: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"]


@pytest.fixture
def quick_clock() -> trio.testing.MockClock:
    """Skip waits: jump to the next deadline once every task has waited for I/O for a moment."""
    return trio.testing.MockClock(autojump_threshold=0.05)


_made: list[Transport] = []


def made(**options: object) -> Transport:
    """Return a transport; ``serving`` closes it with the server."""
    transport = Transport(**{"resolve": local, "max_idle": 10} | options)  # type: ignore[arg-type]
    _made.append(transport)
    return transport


async def post(
    transport: Transport, server: Server, deadline: float = 5.0, scheme: str = "http"
) -> Answer:
    with trio.fail_after(PATIENCE_SECONDS):
        return await transport.post(
            f"{scheme}://receiver.test:{server.port}/hook?a=1",
            headers=b"webhook-id: evt_1\r\n",
            body=b"{}",
            deadline_seconds=deadline,
        )


async def test_request_has_the_expected_bytes() -> None:
    async with serving(answering) as server:
        answer = await post(made(), server)
    assert answer == Answer(200, "ok")
    assert server.requests == [
        b"POST /hook?a=1 HTTP/1.1\r\n"
        b"Host: receiver.test:%d\r\n"
        b"User-Agent: pgbridge\r\n"
        b"Accept: */*\r\n"
        b"Accept-Encoding: identity\r\n"
        b"Content-Length: 2\r\n"
        b"webhook-id: evt_1\r\n"
        b"\r\n{}" % server.port
    ]


async def test_requests_share_a_connection_and_a_lookup() -> None:
    looked_up = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        looked_up.append((host, port))
        return ["127.0.0.1"]

    async with serving(answering) as server:
        transport = made(resolve=resolve)
        for _ in range(5):
            assert (await post(transport, server)).status == 200
        assert (server.connections, looked_up) == (1, [("receiver.test", server.port)])


async def test_every_connection_resolves_and_checks_the_name_again() -> None:
    async def close_after_one(server: Server, stream: trio.abc.Stream, _number: int) -> None:
        await server.request(stream)
        await stream.send_all(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    answers: Iterator[Sequence[str] | Exception] = iter(
        [["127.0.0.1"], BlockedAddressError("169.254.169.254 is link-local")]
    )

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with serving(close_after_one) as server:
        transport = made(resolve=resolve)
        assert (await post(transport, server)).status == 200
        answer = await post(transport, server)
    assert answer.failure is Failure.BLOCKED
    assert answer.error == "blocked: 169.254.169.254 is link-local"
    assert server.connections == 1


async def test_connection_closed_while_idle_is_not_used() -> None:
    async def close_unasked(server: Server, stream: trio.abc.Stream, _number: int) -> None:
        await server.request(stream)
        await stream.send_all(OK)

    async with serving(close_unasked) as server:
        transport = made()
        for number in range(1, 4):
            assert (await post(transport, server)).status == 200
            assert server.connections == number


async def test_idle_connection_closed_during_a_request_is_replaced() -> None:
    async def serve(server: Server, stream: trio.abc.Stream, number: int) -> None:
        await server.request(stream)
        if number in (1, 2):
            await stream.send_all(OK)
            await server.request(stream)  # and hang up

    async with serving(serve) as server:
        transport = made()
        assert (await post(transport, server)).status == 200
        # Closed without an answer, but it had been idle: asked again on the second connection.
        assert (await post(transport, server)).status == 200
        assert (server.connections, len(server.requests)) == (2, 3)
        # The second one as well, and the third is new: its silence is the receiver's answer.
        answer = await post(transport, server)
        assert (answer.failure, server.connections) == (Failure.LOST, 3)


async def test_unsolicited_response_is_not_used_for_the_next_request() -> None:
    async def serve(server: Server, stream: trio.abc.Stream, number: int) -> None:
        await server.request(stream)
        if number == 1:
            await stream.send_all(OK + OK.replace(b"200", b"299"))
        else:
            await stream.send_all(OK.replace(b"200", b"201"))
        await trio.sleep_forever()

    async with serving(serve) as server:
        transport = made()
        assert (await post(transport, server)).status == 200
        assert (await post(transport, server)).status == 201


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1000000000\r\n\r\n",
    ],
)
async def test_long_response_is_cut_and_its_status_counts(head: bytes) -> None:
    async def serve(server: Server, stream: trio.abc.Stream, _number: int) -> None:
        await server.request(stream)
        await stream.send_all(head)
        while True:
            await stream.send_all(b"x" * 4096)

    async with serving(serve) as server:
        transport = made()
        for number in (1, 2):
            assert await post(transport, server) == Answer(200, "x" * RESPONSE_BYTES)
            assert server.connections == number


async def test_chunked_response_is_reassembled() -> None:
    whole = (
        b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
    )

    async def serve(server: Server, stream: trio.abc.Stream, _number: int) -> None:
        while True:
            await server.request(stream)
            for byte in whole:
                await stream.send_all(bytes([byte]))

    async with serving(serve) as server:
        transport = made()
        for _ in range(2):
            assert await post(transport, server) == Answer(200, "abcde")
        assert server.connections == 1


@pytest.mark.parametrize("status", [b"429 Slow", b"503 Busy"])
async def test_retry_after_is_returned(status: bytes) -> None:
    async def serve(server: Server, stream: trio.abc.Stream, _number: int) -> None:
        await server.request(stream)
        await stream.send_all(
            b"HTTP/1.1 %b\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n" % status
        )

    async with serving(serve) as server:
        assert (await post(made(), server)).retry_after == "120"


async def hang(_server: Server, _stream: trio.abc.Stream, _number: int) -> None:
    await trio.sleep_forever()


async def drip_head(server: Server, stream: trio.abc.Stream, _number: int) -> None:
    await server.request(stream)
    while True:
        await stream.send_all(b"H")
        await trio.sleep(0.05)


async def drip_body(server: Server, stream: trio.abc.Stream, _number: int) -> None:
    await server.request(stream)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        await stream.send_all(b".")
        await trio.sleep(0.05)


@pytest.mark.parametrize(
    ("serve", "failure", "said"),
    [
        (hang, Failure.TIMEOUT_ANSWER, "no response within 0.3 s"),
        (drip_head, Failure.TIMEOUT_ANSWER, "no response within 0.3 s"),
        (drip_body, Failure.TIMEOUT_BODY, "no complete response within 0.3 s"),
    ],
)
async def test_deadline_covers_the_whole_attempt(
    serve: Callable[[Server, trio.abc.Stream, int], Awaitable[None]],
    failure: Failure,
    said: str,
    quick_clock: trio.testing.MockClock,
) -> None:
    async with serving(serve) as server:
        answer = await post(made(), server, deadline=0.3)
    assert (answer.failure, answer.error) == (failure, said)


async def test_deadline_covers_sending_the_request(quick_clock: trio.testing.MockClock) -> None:
    async with serving(hang) as server:
        answer = await made().post(
            f"http://receiver.test:{server.port}/",
            headers=b"",
            body=b"x" * 50_000_000,
            deadline_seconds=0.3,
        )
    assert answer.failure is Failure.TIMEOUT_SEND
    assert answer.error == "the receiver did not read the request within 0.3 s"


async def test_deadline_covers_name_resolution(quick_clock: trio.testing.MockClock) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        await trio.sleep_forever()
        raise AssertionError

    answer = await made(resolve=resolve).post(
        "http://receiver.test/", headers=b"", body=b"{}", deadline_seconds=0.1
    )
    assert answer.failure is Failure.TIMEOUT_DNS
    assert answer.error == "cannot resolve the host: no response from the name server within 0.1 s"


async def test_unknown_host_is_a_dns_failure() -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        raise UnresolvableError("receiver.test does not resolve: no such name")

    answer = await made(resolve=resolve).post(
        "http://receiver.test/", headers=b"", body=b"{}", deadline_seconds=1
    )
    assert answer.failure is Failure.DNS


async def test_next_address_is_tried_after_a_refused_connection() -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]  # the receivers listen on the second only

    async with serving(answering) as server:
        assert (await post(made(resolve=resolve), server)).status == 200
    answer = await post(made(resolve=resolve), server)
    assert answer.failure is Failure.CONNECT
    assert answer.error == "cannot connect: Connection refused"


async def test_silent_address_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch, quick_clock: trio.testing.MockClock
) -> None:
    connect = trio.open_tcp_stream

    async def open_tcp_stream(host: str, port: int) -> trio.SocketStream:
        if host == "127.0.0.2":
            await trio.sleep_forever()
        return await connect(host, port)

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return addresses

    async with serving(answering) as server:
        addresses = ["127.0.0.2", "127.0.0.1"]
        assert (await post(made(resolve=resolve), server)).status == 200
        addresses = ["127.0.0.2"]
        answer = await post(made(resolve=resolve), server)
    assert answer.failure is Failure.TIMEOUT_CONNECT
    assert answer.error == "cannot connect: no response within 5 s"


async def huge_head(server: Server, stream: trio.abc.Stream, _number: int) -> None:
    await server.request(stream)
    await stream.send_all(b"HTTP/1.1 200 OK\r\n" + b"X-Long: %b\r\n" % (b"x" * 2_000_000))


async def many_headers(server: Server, stream: trio.abc.Stream, _number: int) -> None:
    await server.request(stream)
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"X-Header: value\r\n" * 100)


async def endless_interim_answers(server: Server, stream: trio.abc.Stream, _number: int) -> None:
    await server.request(stream)
    while True:
        await stream.send_all(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)


async def garbage(server: Server, stream: trio.abc.Stream, _number: int) -> None:
    await server.request(stream)
    await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n" * 10)


async def break_off(server: Server, stream: trio.abc.Stream, _number: int) -> None:
    await server.request(stream)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npartial")


async def break_off_head(server: Server, stream: trio.abc.Stream, _number: int) -> None:
    await server.request(stream)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-")


async def hang_up(server: Server, stream: trio.abc.Stream, _number: int) -> None:
    await server.request(stream)


@pytest.mark.parametrize(
    ("serve", "status", "failure"),
    [
        (huge_head, None, Failure.OVERSIZE),
        (many_headers, None, Failure.OVERSIZE),
        (endless_interim_answers, None, Failure.PROTOCOL),
        (garbage, None, Failure.PROTOCOL),
        (break_off, 200, Failure.LOST),
        (break_off_head, None, Failure.PROTOCOL),
        (hang_up, None, Failure.LOST),
    ],
)
async def test_incomplete_or_invalid_response_is_classified(
    serve: Callable[[Server, trio.abc.Stream, int], Awaitable[None]],
    status: int | None,
    failure: Failure,
) -> None:
    async with serving(serve) as server:
        answer = await post(made(), server)
    assert (answer.status, answer.failure) == (status, failure)
    assert answer.error
    assert "bytearray" not in answer.error


async def test_interim_responses_are_skipped() -> None:
    async def serve(server: Server, stream: trio.abc.Stream, _number: int) -> None:
        await server.request(stream)
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + OK)

    async with serving(serve) as server:
        assert await post(made(), server) == Answer(200, "ok")


async def answer_once(head_and_body: bytes) -> tuple[Answer, int]:
    """Return the answer if a receiver sends these bytes, and how many connections two posts need.

    The receiver keeps the connection open, so what is not read does not end the response.
    """

    async def serve(server: Server, stream: trio.abc.Stream, _number: int) -> None:
        while True:
            await server.request(stream)
            await stream.send_all(head_and_body)

    async with serving(serve) as server:
        transport = made()
        answer = await post(transport, server)
        assert await post(transport, server) == answer
        return answer, server.connections


INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"


@pytest.mark.parametrize("before", [b"", INTERIM], ids=["first", "after an interim response"])
@pytest.mark.parametrize(
    ("headers", "error"),
    [
        (b"a:\r\n" * MOST_HEADERS, "more than 100 headers"),
        (b"a: b\r\n" + b" c\r\n" * MOST_HEADERS, "more than 100 headers"),
        (b"a:" + b" " * 10_000 + b"\0\r\n", "a header with 100 leading spaces"),
        (b"a:" + b"\t" * 100 + b"b\r\n", "a header with 100 leading spaces"),
    ],
    ids=["headers", "folded lines", "spaces", "tabs"],
)
async def test_costly_heads_of_responses_are_not_parsed(
    before: bytes, headers: bytes, error: str
) -> None:
    answer, _ = await answer_once(before + OK.replace(b"\r\n\r\n", b"\r\n" + headers + b"\r\n"))
    assert answer == Answer(None, None, Failure.PROTOCOL, f"invalid HTTP response: {error}")


async def test_responses_may_have_100_headers() -> None:
    headers = b"Set-Cookie: a=b\r\n" * (MOST_HEADERS - 1)
    answer, connections = await answer_once(OK.replace(b"\r\n", b"\r\n" + headers, 1))
    assert (answer, connections) == (Answer(200, "ok"), 1)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"


@pytest.mark.parametrize(
    ("rest", "body"),
    [
        (b"0\r\na:" + b" " * 100 + b"b\r\n\r\n", ""),
        (b"0\r\na:" + b" " * 3000 + b"\0\r\n\r\n", ""),
        (b"0\r\n" + b"Trailer: x\r\n" * 1000 + b"\r\n", "ok"),
        (b"2;" + b"x" * 10_000 + b"\r\nxx\r\n0\r\n\r\n", "ok"),
    ],
    ids=["padded", "padded and invalid", "trailers", "extension"],
)
async def test_costly_ends_of_responses_are_not_read(rest: bytes, body: str) -> None:
    answer, connections = await answer_once(CHUNKED + rest)
    assert (answer, connections) == (Answer(200, body), 2)


async def test_spaces_in_a_body_with_a_length_are_read() -> None:
    body = b'{"a":' + b" " * 1000 + b"1}"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer, connections = await answer_once(head + body)
    assert (answer, connections) == (Answer(200, body.decode()), 1)


async def test_tiny_chunks_of_responses_are_bounded() -> None:
    answer, connections = await answer_once(CHUNKED + b"1\r\nx\r\n" * RESPONSE_PIECES)
    assert (answer, connections) == (Answer(200, "ok" + "x" * RESPONSE_PIECES), 2)


async def test_redirect_is_not_followed() -> None:
    async def serve(server: Server, stream: trio.abc.Stream, _number: int) -> None:
        await server.request(stream)
        await stream.send_all(
            b"HTTP/1.1 307 Over there\r\nLocation: http://169.254.169.254/latest/meta-data/\r\n"
            b"Content-Length: 0\r\n\r\n"
        )

    async with serving(serve) as server:
        assert await post(made(), server) == Answer(307, "")
        assert len(server.requests) == 1


async def test_idle_connections_are_bounded_and_expire() -> None:
    open_connections = 0

    async def serve(server: Server, stream: trio.abc.Stream, number: int) -> None:
        nonlocal open_connections
        open_connections += 1
        try:
            await answering(server, stream, number)
        finally:
            open_connections -= 1

    async def until(count: int) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            while open_connections != count:  # noqa: ASYNC110 - the kernel tells in its own time
                await trio.sleep(0.001)

    async with serving(serve) as server:
        transport = made(max_idle=3)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(post, transport, server)
        await until(3)
        transport.close_idle(older_than_seconds=60)
        await until(3)
        transport.close_idle(older_than_seconds=0)
        await until(0)
        assert (await post(transport, server)).status == 200


async def test_tls_ignores_the_trailing_dot_of_a_name() -> None:
    authority = trustme.CA()
    names: list[str | None] = []
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("receiver.test").configure_cert(server_side)
    server_side.sni_callback = lambda _socket, name, _context: names.append(name)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    async with serving(answering, server_side) as server:
        answer = await made(tls=client_side).post(
            f"https://receiver.test.:{server.port}/", headers=b"", body=b"{}", deadline_seconds=5
        )
    assert answer == Answer(200, "ok")
    assert names == ["receiver.test"]


async def test_tls_checks_the_name_of_the_url() -> None:
    authority = trustme.CA()
    names: list[str | None] = []
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("receiver.test").configure_cert(server_side)
    server_side.sni_callback = lambda _socket, name, _context: names.append(name)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    async with serving(answering, server_side) as server:
        transport = made(tls=client_side)
        for _ in range(2):
            assert await post(transport, server, scheme="https") == Answer(200, "ok")
        assert (server.connections, names) == (1, ["receiver.test"])
        other = await transport.post(
            f"https://other.test:{server.port}/", headers=b"", body=b"{}", deadline_seconds=5
        )
        assert other.failure is Failure.TLS
        assert "other.test" in (other.error or "")
        stranger = await post(made(), server, scheme="https")
        assert stranger.failure is Failure.TLS
        assert "certificate verify failed" in (stranger.error or "")


async def test_plain_server_is_a_tls_failure(quick_clock: trio.testing.MockClock) -> None:
    async def plain(_server: Server, stream: trio.abc.Stream, _number: int) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    async with serving(plain) as server:
        answer = await post(made(), server, scheme="https")
        assert (answer.status, answer.failure) == (None, Failure.TLS)
    async with serving(hang) as server:
        answer = await post(made(), server, scheme="https", deadline=0.3)
        assert answer.failure is Failure.TIMEOUT_TLS


@pytest.mark.parametrize(
    "url", ["ftp://a/", "http://", "http://u:p@a/", "http://[::1", "", "http://a:b/", "http:///x"]
)
async def test_unusable_url_is_a_url_failure(url: str) -> None:
    answer = await made().post(url, headers=b"", body=b"{}", deadline_seconds=1)
    assert answer.failure is Failure.URL


async def test_url_cannot_inject_into_the_request() -> None:
    for url in ("http://a.test/x\r\nEvil: 1", "http://a.test/x y", "http://a.test/\u2028\x00é"):
        try:
            target = parse_url(url)
        except ValueError:
            continue
        line, *others = target.head.split(b"\r\n")
        assert line.count(b" ") == 2
        assert not any(other.startswith(b"Evil") for other in others)
        target.head.decode("ascii")
