"""Create the demo's database and show how to open it."""

import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bridge.database.rights import SERVICE
from bridge.demo.postgres import EmbeddedPostgres

_DATABASE = "shop"
_BRIDGE = "pgbridge"
_TABLES = Path(__file__).with_name("bot.sql")


def create_database(server: EmbeddedPostgres) -> str:
    """Create the shop's database and its tables; return its URL."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"create database {_DATABASE}".encode())
    url = server.url(_DATABASE)
    with psycopg.connect(url) as connection:
        connection.execute(_TABLES.read_bytes())
    return url


def create_login(url: str) -> str:
    """Create the bridge's login; return the URL with which it connects."""
    with psycopg.connect(url) as connection:
        connection.execute(f"create role {_BRIDGE} login in role {SERVICE}".encode())
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{_BRIDGE}@{parts.netloc.rpartition('@')[2]}"))


def psql_command(server: EmbeddedPostgres, url: str) -> str:
    """Return the psql command that opens the shop's database."""
    psql = "psql" if shutil.which("psql") else str(server.bin / "psql")
    info = conninfo_to_dict(url)
    return shlex.join([psql, "-h", str(info["host"]), "-U", str(info["user"]), _DATABASE])


def shell_command(server: EmbeddedPostgres, url: str) -> str:
    """Return the shell command that points pgbridge and psql at the database."""
    programs = f"{Path(sys.executable).parent}:{server.bin}"
    return f"export BRIDGE_DATABASE_URL={shlex.quote(url)} PATH={shlex.quote(programs)}:$PATH"
