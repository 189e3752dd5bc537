"""An application with tables and rules of any kind."""

import json
from typing import Any

import psycopg

from bridge.capture.models import Plan
from bridge.capture.rules import parse_rules
from tests.conftest import init


class Application:
    """One connection of an application, and the events captured from its statements."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(url, autocommit=True)

    def capture(self, rules: str) -> Plan:
        """Apply exactly these rules, as ``pgbridge init`` does; return the plan."""
        return init(self.url, parse_rules(rules))

    def run(self, *statements: str) -> None:
        """Run each statement in its own transaction, or all in the caller's."""
        for statement in statements:
            self.connection.execute(statement.encode())

    def together(self, *statements: str) -> None:
        """Run the statements in one transaction."""
        with self.connection.transaction():
            self.run(*statements)

    def events(self) -> list[tuple[str, Any]]:
        """Empty the outbox, and return its events in order."""
        rows = self.connection.execute(
            "with taken as (delete from bridge.outbox returning *)"
            " select event_type, payload::text from taken order by id"
        ).fetchall()
        return [(event_type, json.loads(text)) for event_type, text in rows]

    def payloads(self) -> list[Any]:
        return [payload for _, payload in self.events()]


def rule(event: str, table: str, on: str, more: str) -> str:
    """Return a rule as TOML; ``on`` is a TOML value, ``more`` has further lines."""
    return f"[[capture]]\nevent = '{event}'\ntable = '{table}'\non = {on}\n{more}\n"
