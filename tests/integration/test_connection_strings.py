"""Every parameter of libpq works for the daemon as it does for commands."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
import trio
import trustme
from psycopg.conninfo import conninfo_to_dict

from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import open_database
from bridge.database.sessions import SessionError, open_session


async def both(url: str) -> None:
    """Connect with both drivers.

    Raises:
        SessionError, DatabaseUnavailable: as the first or the second raises.
    """
    with open_session(url) as session:
        assert session.execute("show client_encoding").fetchone() == ("UTF8",)
    async with open_database(url) as database, database.connect() as connection:
        assert await database.fetch("clock")
        assert await connection.fetch("clock")


@pytest.mark.parametrize(
    "parameters",
    [
        "channel_binding=prefer",
        "channel_binding=disable",
        "connect_timeout=10",
        "gssencmode=disable",
        "gssencmode=prefer",
        "keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=2",
        "tcp_user_timeout=10000",
        "sslsni=1&sslmode=prefer&sslcompression=0",
        "load_balance_hosts=random",
        "require_auth=none,scram-sha-256,password,md5",
        "application_name=mine&fallback_application_name=other",
        "client_encoding=latin1",
        "options=-c%20default_transaction_isolation%3Dserializable",
        "target_session_attrs=read-write",
        "ssl_min_protocol_version=TLSv1.2&krbsrvname=postgres",
    ],
)
async def test_parameters_are_accepted(bridge_url: str, parameters: str) -> None:
    await both(f"{bridge_url}{'&' if '?' in bridge_url else '?'}{parameters}")


@pytest.mark.parametrize(
    "parameters", ["require_auth=gss", "target_session_attrs=read-only", "nonsense=1"]
)
async def test_parameters_are_obeyed(bridge_url: str, parameters: str) -> None:
    url = f"{bridge_url}{'&' if '?' in bridge_url else '?'}{parameters}"
    with pytest.raises(SessionError), open_session(url):
        pass
    with pytest.raises(DatabaseUnavailable):
        async with open_database(url):
            pass


async def test_service_file_is_read(
    bridge_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"{name}={value}" for name, value in conninfo_to_dict(bridge_url).items()]
    file = tmp_path / "services"
    file.write_text("\n".join(["[shop]", *lines, ""]))
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    await both("postgresql:///?service=shop")


#: The name in the certificate, which no resolver knows.
NAME = "db.pgbridge.invalid"


@asynccontextmanager
async def encrypting(url: str, authority: trustme.CA, host: str) -> AsyncIterator[int]:
    """Serve the database with TLS, as ``NAME``, at this address; yield the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    with psycopg.connect(url) as connection:
        socket_file = f"{connection.info.host}/.s.PGSQL.{connection.info.port}"

    async def pump(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def serve(stream: trio.SocketStream) -> None:
        if not await stream.receive_some(8):  # the request for TLS
            return
        await stream.send_all(b"S")
        encrypted = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await encrypted.do_handshake()
        except trio.BrokenResourceError:
            return  # the client rejects the certificate
        async with (
            await trio.open_unix_socket(socket_file) as server,
            encrypted,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(pump, encrypted, server)
            await pump(server, encrypted)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host=host))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("said", "address", "accepted"),
    [
        (f"host={NAME}&hostaddr=127.0.0.1", "127.0.0.1", True),
        (f"host={NAME}&hostaddr=::1", "::1", True),
        # The first does not listen; its name is another one.
        (f"host=other.invalid,{NAME}&hostaddr=127.0.0.2,127.0.0.1", "127.0.0.1", True),
        ("host=other.invalid&hostaddr=127.0.0.1", "127.0.0.1", False),
        ("hostaddr=127.0.0.1", "127.0.0.1", False),
        ("host=127.0.0.1&hostaddr=127.0.0.1", "127.0.0.1", False),
    ],
)
async def test_names_are_verified_at_addresses(
    bridge_url: str, tmp_path: Path, said: str, address: str, accepted: bool
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "root.crt"))
    parts = conninfo_to_dict(bridge_url)
    async with encrypting(bridge_url, authority, address) as port:
        url = (
            f"postgresql:///{parts['dbname']}?user={parts['user']}&port={port}&{said}"
            f"&sslmode=verify-full&sslrootcert={tmp_path / 'root.crt'}"
        )

        def by_libpq() -> None:
            with open_session(url) as session:
                session.execute("select")

        async def by_asyncpg() -> None:
            async with open_database(url) as database, database.connect() as connection:
                assert await database.fetch("clock")
                assert await connection.fetch("clock")

        if accepted:
            await trio.to_thread.run_sync(by_libpq)
            await by_asyncpg()
            return
        with pytest.raises(SessionError):
            await trio.to_thread.run_sync(by_libpq)
        with pytest.raises(DatabaseUnavailable):
            await by_asyncpg()
