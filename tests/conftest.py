"""Fixtures for a real PostgreSQL: one server per worker, one cloned database per test."""

import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from bridge.capture.apply import apply_steps, install_lock
from bridge.capture.models import Plan
from bridge.capture.plan import plan_install
from bridge.capture.rules import Rule, load_preset
from bridge.database.sessions import open_session
from bridge.demo.postgres import EmbeddedPostgres
from tests.pgbouncer import pgbouncer
from tests.postgres import MAJOR, postgres
from tests.system.processes import SERVICE_LOGIN

#: Test directories, the one with the longest files first; unknown ones come before all of them.
LONGEST_FIRST = ("docs", "system", "browser", "packaging", "integration", "unit")

BOT_TABLES = Path(__file__).parents[1] / "bridge" / "demo" / "bot.sql"


def pytest_configure() -> None:
    """Restore SIGINT: jobs in the background ignore it, and so would the processes of tests."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of tests/browser; pytest does not find them in a nested conftest."""
    parser.addoption(
        "--screenshots", metavar="DIRECTORY", help="write screenshots of the tested pages"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start with the longest files if several workers run, so that none idles at the end.

    A single worker keeps pytest's order, in which simple mistakes show first.
    """
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: ranks.get(item.path.parent.name, -1))


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    """The server shared by all tests of a worker; no test stops it."""
    with postgres() as running:
        with psycopg.connect(running.url(), autocommit=True) as connection:
            # For tests of two-phase commit.
            connection.execute("alter system set max_prepared_transactions = 8")
            # Cloning and dropping databases would wait for the disk. Tests that crash a server
            # use ``own_server``, with fsync.
            connection.execute("alter system set fsync = off")
            # Bounds the memory of each worker if the server is in memory.
            connection.execute("alter system set max_wal_size = '256MB'")
            create_roles(connection)
        running.stop()
        running.start()
        yield running


def create_roles(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Create the roles that init grants rights to, and a login with only the service's rights."""
    connection.execute(
        "create role bridge_service; create role bridge_reader;"
        f" create role {SERVICE_LOGIN} login in role bridge_service".encode()
    )


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server without pgbridge's roles, which the test may stop."""
    with postgres() as running:
        yield running


@pytest.fixture
def own_url(own_server: EmbeddedPostgres) -> str:
    """A database of ``own_server`` with the bot's tables and pgbridge installed."""
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute("create database shop")
        create_roles(connection)
    url = own_server.url("shop")
    with psycopg.connect(url) as connection:
        connection.execute(BOT_TABLES.read_bytes())
    init(url)
    return url


@pytest.fixture(scope="session")
def bot_template(server: EmbeddedPostgres) -> str:
    """A database with the bot's tables only."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create database template_bot")
    with psycopg.connect(server.url("template_bot")) as connection:
        connection.execute(BOT_TABLES.read_bytes())
    return "template_bot"


@pytest.fixture(scope="session")
def bridge_template(server: EmbeddedPostgres, bot_template: str) -> str:
    """A database with the bot's tables and pgbridge installed."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"create database template_bridge template {bot_template}".encode())
    init(server.url("template_bridge"))
    return "template_bridge"


def init(url: str, rules: Sequence[Rule] | None = None) -> Plan:
    """Install the bot's preset, or these rules, as ``pgbridge init`` does; return the plan."""
    with open_session(url) as connection, install_lock(connection):
        planned = plan_install(connection, load_preset("telegram-shop") if rules is None else rules)
        apply_steps(connection, planned.steps, lock_timeout_seconds=1.0, report=lambda _: None)
        if planned.steps:
            connection.execute(
                "select bridge.create_partitions((now() at time zone 'UTC')::date - 1, 4)"
            )
    return planned


@pytest.fixture
def clone(server: EmbeddedPostgres) -> Iterator[Callable[[str], str]]:
    """Clones a template into a new database for the test; returns its URL.

    Copying files takes half the time of PostgreSQL's default, which writes every page to the WAL.
    """
    copy_files = " strategy file_copy" if MAJOR >= 15 else ""  # what PostgreSQL 14 always does
    made: list[str] = []

    def make(template: str) -> str:
        name = f"test_{next(_NUMBERS)}"
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"create database {name} template {template}{copy_files}".encode())
        made.append(name)
        return server.url(name)

    yield make
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for name in made:
            connection.execute(f"drop database {name} with (force)".encode())


_NUMBERS = itertools.count(1)


@pytest.fixture
def empty_url(clone: Callable[[str], str]) -> str:
    """An empty database."""
    return clone("template0")


@pytest.fixture
def bot_url(clone: Callable[[str], str], bot_template: str) -> str:
    """A database with the bot's tables."""
    return clone(bot_template)


@pytest.fixture
def bridge_url(clone: Callable[[str], str], bridge_template: str) -> str:
    """A database with the bot's tables and pgbridge installed."""
    return clone(bridge_template)


@pytest.fixture
def pooled_url(bridge_url: str) -> Iterator[str]:
    """``bridge_url`` through a PgBouncer in transaction mode with few server sessions."""
    with pgbouncer(bridge_url) as url:
        yield url


@pytest.fixture
def bot(bridge_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """The application's connection to ``bridge_url``: plain psycopg, autocommit."""
    with psycopg.connect(bridge_url, autocommit=True) as connection:
        yield connection
