"""Connection strings mean the same for both drivers."""

import os
import socket
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from bridge.database.parameters import ParameterError, for_asyncpg, for_libpq


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)


def read_by_asyncpg(url: str) -> dict[str, str]:
    return {name: value for name, [value] in parse_qs(urlsplit(for_asyncpg(url).dsn).query).items()}


@pytest.mark.parametrize(
    ("url", "read"),
    [
        (
            "postgresql://u:p%40ss@h/d?application_name=x&channel_binding=prefer&sslsni=1",
            {"user": "u", "password": "p@ss", "host": "h", "port": "5432", "dbname": "d"},
        ),
        ("postgresql://h:1,h2:2/d", {"host": "h,h2", "port": "1,2", "dbname": "d"}),
        ("postgresql://h,h2/d?port=7", {"host": "h,h2", "port": "7,7", "dbname": "d"}),
        ("postgresql:///d?host=/run/pg&port=7", {"host": "/run/pg", "port": "7", "dbname": "d"}),
        ("postgresql:///d?port=7", {"port": "7", "dbname": "d"}),
        ("postgresql://[::1]:7/d", {"host": "[::1]", "port": "7", "dbname": "d"}),
        (
            "postgresql://db.example/d?hostaddr=127.0.0.1&sslmode=require",
            {"host": "127.0.0.1", "port": "5432", "dbname": "d", "sslmode": "require"},
        ),
        (
            "postgresql://a,b/d?hostaddr=::1,127.0.0.1&port=1,2",
            {"host": "[::1],127.0.0.1", "port": "1,2", "dbname": "d"},
        ),
        # libpq looks up the name of a host whose address is empty.
        (
            "postgresql://a,b/d?hostaddr=,127.0.0.1",
            {"host": "a,127.0.0.1", "port": "5432,5432", "dbname": "d"},
        ),
        (
            "postgresql:///d?options=-c%20work_mem%3D1MB&target_session_attrs=primary",
            {
                "dbname": "d",
                "options": "-c work_mem=1MB",
                "target_session_attrs": "primary",
            },
        ),
    ],
)
def test_asyncpg_gets_what_it_knows(url: str, read: dict[str, str]) -> None:
    assert read_by_asyncpg(url) == read


def test_environment_counts_less_than_the_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "of-the-environment")
    monkeypatch.setenv("PGSSLMODE", "require")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "3")
    assert read_by_asyncpg("postgresql:///d")["host"] == "of-the-environment"
    assert read_by_asyncpg("postgresql://h/d") == {
        "host": "h", "port": "5432", "dbname": "d", "sslmode": "require",
    }  # fmt: skip
    assert for_asyncpg("postgresql://h/d").connect_seconds == 3
    assert "connect_timeout" not in conninfo_to_dict(for_libpq("postgresql://h/d"))


@pytest.mark.parametrize("named_by", ["string", "environment"])
def test_service_counts_more_than_the_environment(
    named_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "services"
    file.write_text(
        "[shop]\nhost=of-the-service\nport=7\nuser=u\nconnect_timeout=4\nkeepalives=0\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    monkeypatch.setenv("PGHOST", "of-the-environment")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "3")
    monkeypatch.setenv("PGDATABASE", "d")
    url = "postgresql:///?service=shop"
    if named_by == "environment":
        monkeypatch.setenv("PGSERVICE", "shop")
        url = "postgresql:///"
    assert read_by_asyncpg(url) == {
        "host": "of-the-service", "port": "7", "user": "u", "dbname": "d",
    }  # fmt: skip
    assert for_asyncpg(url).connect_seconds == 4
    keepalive = (socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert for_asyncpg(url).socket_options[keepalive] == 0
    assert conninfo_to_dict(for_libpq(url)).get("keepalives") is None
    separator = "&" if "?" in url else "?"
    assert read_by_asyncpg(f"{url}{separator}host=of-the-string")["host"] == "of-the-string"
    assert os.environ.get("PGSERVICE") == ("shop" if named_by == "environment" else None)


def test_unknown_service_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    with pytest.raises(ParameterError, match=r'service "nope" not found|service file .* not found'):
        for_asyncpg("postgresql:///?service=nope")


@pytest.mark.parametrize(
    ("said", "seconds"), [("", 10), ("connect_timeout=1", 2), ("connect_timeout=0", 10),
                          ("connect_timeout=25", 25)],
)  # fmt: skip
def test_time_to_connect(said: str, seconds: float) -> None:
    assert for_asyncpg(f"postgresql://h/d?{said}").connect_seconds == seconds


def test_hosts_may_be_shuffled() -> None:
    url = "postgresql://a:1,b:2,c:3,d:4/x?load_balance_hosts=random"
    read = [read_by_asyncpg(url) for _ in range(50)]
    assert len({each["host"] for each in read}) > 1
    for each in read:
        pairs = zip(each["host"].split(","), each["port"].split(","), strict=True)
        assert set(pairs) == {("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")}


@pytest.mark.parametrize(
    ("said", "keepalive", "idle", "user_timeout"),
    [
        ("", 1, 5, 12_000),
        ("keepalives_idle=30&tcp_user_timeout=5000", 1, 30, 5000),
        ("keepalives=0", 0, 5, 12_000),
        ("keepalives_idle=0&tcp_user_timeout=0", 1, None, None),
    ],
)
def test_vanished_peers_are_noticed(
    said: str, keepalive: int, idle: int | None, user_timeout: int | None
) -> None:
    parameters = for_asyncpg(f"postgresql://h/d?{said}")
    with socket.socket() as connection:
        unchanged = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        parameters.apply_to(connection)
        get = connection.getsockopt
        assert bool(get(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is bool(keepalive)
        assert get(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == (idle or unchanged)
        assert get(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == (user_timeout or 0)


def test_sockets_of_files_have_no_such_options(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        for_asyncpg("postgresql://h/d").apply_to(connection)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://h/d?shoe_size=1", 'invalid URI query parameter: "shoe_size"'),
        ("postgresql://h/d?connect_timeout=soon", 'invalid integer value "soon"'),
        ("postgresql://h/d?keepalives_idle=1s", 'invalid integer value "1s"'),
        ("postgresql://h/d?gssencmode=require", "cannot encrypt with GSSAPI; use TLS"),
        ("postgresql:///d?hostaddr=127.0.0.1&sslmode=verify-full", "host name must be specified"),
        ("postgresql://h,i/d?hostaddr=::1,::1&sslmode=verify-full", "::1 has two names"),
        ("postgresql://h,i/d?hostaddr=127.0.0.1", "match 2 host names to 1 hostaddr"),
        ("postgresql://h/d?hostaddr=::1&sslmode=verify-full&sslrootcert=/none", "verify-full: "),
    ],
)
def test_refusals_say_why(url: str, reason: str) -> None:
    with pytest.raises(ParameterError, match=reason) as refusal:
        for_asyncpg(url)
    assert isinstance(refusal.value, psycopg.Error)  # so that commands print it in one line


@pytest.mark.parametrize(
    ("said", "demands"),
    [
        ("channel_binding=prefer&gssencmode=disable", False),
        ("channel_binding=require", True),
        ("require_auth=scram-sha-256", True),
    ],
)
def test_demands_need_libpq(said: str, demands: bool) -> None:
    assert for_asyncpg(f"postgresql://h/d?{said}").has_demands is demands
