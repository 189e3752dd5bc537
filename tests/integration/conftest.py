"""A shop that tests can do business in, and what it takes to look at the database from outside."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from bridge.demo.postgres import EmbeddedPostgres

Payload = dict[str, Any]


class Shop:
    """The application at work on one connection of its own, and the events that come of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(url, autocommit=True)

    def reset(self) -> None:
        """Empty the application's tables and the outbox; ids begin at 1 again."""
        self.connection.execute(
            "truncate public.users, public.transactions, public.tickets, public.ticket_messages,"
            " bridge.outbox, bridge.transaction_notes restart identity"
        )

    def close(self) -> None:
        self.connection.close()

    def execute(self, statement: str, *values: object) -> psycopg.Cursor[tuple[Any, ...]]:
        return self.connection.execute(statement.encode(), values or None)

    def transaction(self) -> AbstractContextManager[psycopg.Transaction]:
        """One transaction of the application; within another, a savepoint."""
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
        """Take what the outbox has, in order; of one type, if it is given."""
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
    """A database with the bot's tables and pgbridge, for all tests of one module."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"create database shop template {bridge_template}".encode())
        yield server.url("shop")
        connection.execute("drop database shop with (force)")


@pytest.fixture
def shop(shop_url: str) -> Iterator[Shop]:
    """A shop with one user, whose id is 1, and no events yet."""
    opened = Shop(shop_url)
    opened.reset()
    opened.user()
    opened.events()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def dump_schema(server: EmbeddedPostgres) -> Callable[..., str]:
    """What ``pg_dump --schema-only`` writes of a database, without what differs at every run."""

    def dump(url: str, *options: str) -> str:
        command = [str(server.bin / "pg_dump"), "--schema-only", *options, url]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        kept = [
            line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unres"))
        ]
        return "\n".join(kept) + "\n"

    return dump
