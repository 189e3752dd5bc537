"""An application of any kind, with rules of its own, and what capture makes of its work."""

from __future__ import annotations

import json
from typing import Any

import psycopg

from bridge.capture.apply import apply_steps, install_lock
from bridge.capture.models import Plan
from bridge.capture.plan import plan_install
from bridge.capture.rules import parse_rules
from bridge.database.sessions import open_session


class Application:
    """An application at work on one connection, and what capture makes of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(url, autocommit=True)

    def capture(self, rules: str) -> Plan:
        """Have exactly these rules, as ``pgbridge init`` does; return what was planned."""
        with open_session(self.url) as connection, install_lock(connection):
            planned = plan_install(connection, parse_rules(rules))
            apply_steps(connection, planned.steps, lock_timeout_seconds=1.0, report=lambda _: None)
        return planned

    def run(self, *statements: str) -> None:
        """Run each statement as a transaction, or all within that of the caller."""
        for statement in statements:
            self.connection.execute(statement.encode())

    def together(self, *statements: str) -> None:
        """Run the statements in one transaction."""
        with self.connection.transaction():
            self.run(*statements)

    def texts(self) -> list[tuple[str, str]]:
        """Take what the outbox has, in order, each payload as the text that is sent."""
        return self.connection.execute(
            "with taken as (delete from bridge.outbox returning *)"
            " select event_type, payload::text from taken order by id"
        ).fetchall()

    def events(self) -> list[tuple[str, Any]]:
        return [(kind, json.loads(text)) for kind, text in self.texts()]

    def payloads(self) -> list[Any]:
        return [payload for _, payload in self.events()]


def rule(event: str, table: str, on: str, more: str) -> str:
    """One rule as TOML; ``on`` is a TOML value, ``more`` are lines."""
    return f"[[capture]]\nevent = '{event}'\ntable = '{table}'\non = {on}\n{more}\n"
