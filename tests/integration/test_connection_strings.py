"""Every parameter of libpq works for the daemon as it does for commands."""

from pathlib import Path

import pytest
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
