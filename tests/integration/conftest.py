"""Applications for tests to capture: the shop bot, and one with tables of any kind."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from bridge.demo.postgres import EmbeddedPostgres
from tests.integration.application import Application
from tests.integration.psql import Psql, Session

Payload = dict[str, Any]


class Shop:
    """One connection of the shop bot, and the events captured from its statements."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(url, autocommit=True)

    def reset(self) -> None:
        """Empty the application's tables and the outbox, and restart their ids."""
        self.connection.execute(
            "truncate public.users, public.transactions, public.tickets, public.ticket_messages,"
            " bridge.outbox, bridge.transaction_notes restart identity"
        )

    def close(self) -> None:
        self.connection.close()

    def execute(self, statement: str, *values: object) -> psycopg.Cursor[tuple[Any, ...]]:
        return self.connection.execute(statement.encode(), values or None)

    def transaction(self) -> AbstractContextManager[psycopg.Transaction]:
        """Begin a transaction, or a savepoint within one."""
        return self.connection.transaction()

    def user(self, **columns: object) -> int:
        return self._insert("users", {"auth_type": "telegram"} | columns)

    def payment(self, **columns: object) -> int:
        defaults = {"type": "deposit", "amount_kopeks": 10050, "is_completed": True}
        return self._insert("transactions", defaults | columns)

    def ticket(self, **columns: object) -> int:
        defaults = {
            "title": "No connection",
            "status": "open",
            "priority": "normal",
            "user_reply_block_permanent": False,
        }
        return self._insert("tickets", defaults | columns)

    def message(self, ticket_id: int, **columns: object) -> int:
        defaults = {"message_text": "Hello", "is_from_admin": False}
        return self._insert("ticket_messages", {"ticket_id": ticket_id} | defaults | columns)

    def set_status(self, ticket_id: int, status: str) -> None:
        self.execute("update public.tickets set status = %s where id = %s", status, ticket_id)

    def events(self, event_type: str | None = None) -> list[tuple[str, Payload]]:
        """Empty the outbox, and return its events in order, optionally of one type."""
        rows = self.execute(
            "with taken as (delete from bridge.outbox returning *)"
            " select event_type, payload from taken order by id"
        ).fetchall()
        return [(kind, payload) for kind, payload in rows if event_type in (None, kind)]

    def payloads(self, event_type: str) -> list[Payload]:
        return [payload for _, payload in self.events(event_type)]

    def _insert(self, table: str, columns: dict[str, Any]) -> int:
        if table != "users":
            columns = {"user_id": 1} | columns
        statement = sql.SQL("insert into {} ({}) values ({}) returning *").format(
            sql.Identifier("public", table),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
        )
        row = self.connection.execute(statement, list(columns.values())).fetchone()
        assert row is not None
        row_id: int = row[0]
        return row_id


@pytest.fixture(scope="module")
def shop_url(server: EmbeddedPostgres, bridge_template: str) -> Iterator[str]:
    """Return a database with the bot's tables and pgbridge, shared by a module."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"create database shop template {bridge_template}".encode())
        yield server.url("shop")
        connection.execute("drop database shop with (force)")


@pytest.fixture
def shop(shop_url: str) -> Iterator[Shop]:
    """Return a shop with one user, whose id is 1, and an empty outbox."""
    opened = Shop(shop_url)
    opened.reset()
    opened.user()
    opened.events()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def no_rules(server: EmbeddedPostgres) -> str:
    """Return a template database with pgbridge and no rules."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create database template_no_rules")
    opened = Application(server.url("template_no_rules"))
    opened.capture("")
    opened.connection.close()
    return "template_no_rules"


@pytest.fixture
def app(clone: Callable[[str], str], no_rules: str) -> Iterator[Application]:
    """Return an application without tables."""
    opened = Application(clone(no_rules))
    yield opened
    opened.connection.close()


@pytest.fixture(scope="session")
def dump_schema(server: EmbeddedPostgres) -> Callable[..., str]:
    """Return a function that runs ``pg_dump --schema-only`` and drops lines that vary by run."""

    def dump(url: str, *options: str) -> str:
        command = [str(server.bin / "pg_dump"), "--schema-only", *options, url]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        kept = [
            line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unres"))
        ]
        return "\n".join(kept) + "\n"

    return dump


@pytest.fixture(scope="module")
def psql_url(server: EmbeddedPostgres, bridge_template: str) -> Iterator[str]:
    """Return a database with pgbridge, shared by a module. Each test creates its own webhooks."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"create database operators template {bridge_template}".encode())
        yield server.url("operators")
        connection.execute("drop database operators with (force)")


@pytest.fixture
def connect(psql_url: str) -> Iterator[Callable[[], Session]]:
    """Return a function that opens further sessions, without autocommit."""
    opened: list[Session] = []

    def make() -> Session:
        opened.append(psycopg.connect(psql_url))
        return opened[-1]

    yield make
    for session in opened:
        session.close()


@pytest.fixture
def psql(psql_url: str) -> Iterator[Psql]:
    opened = Psql(psql_url)
    yield opened
    opened.assert_counts_are_exact()
    opened.session.close()


@pytest.fixture
def bot_tokens(bot: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """The bot's table of tokens, as its migrations create it."""
    bot.execute("""
        create table public.web_api_tokens (
            id serial primary key,
            name varchar(255) not null,
            token_hash varchar(128) not null unique,
            token_prefix varchar(32) not null,
            description text,
            created_at timestamptz,
            updated_at timestamptz,
            expires_at timestamptz,
            last_used_at timestamptz,
            last_used_ip varchar(64),
            is_active boolean)""")
    yield bot
    bot.execute("drop table public.web_api_tokens")
