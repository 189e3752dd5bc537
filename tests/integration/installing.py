"""Helpers to plan and apply an installation, and to look at its triggers."""

from collections.abc import Callable, Iterable

import psycopg

from bridge.capture.apply import apply_steps
from bridge.capture.models import Plan
from bridge.capture.plan import plan_install, plan_removal
from bridge.capture.rules import Rule, load_preset
from bridge.database.migrate import Step
from bridge.database.sessions import open_session

Dump = Callable[..., str]
RULES = [
    "note ticket.opened",
    "note ticket.opening_message",
    "user.created",
    "transaction.created",
    "payment.completed",
    "ticket.created",
    "ticket.status_changed",
    "ticket.message_added",
]


def plan(url: str, rules: Iterable[Rule] | None = None) -> Plan:
    with open_session(url) as connection:
        return plan_install(connection, [*(rules or load_preset("telegram-shop"))])


def apply(url: str, steps: Iterable[Step], *, lock_timeout_seconds: float = 1.0) -> None:
    with open_session(url) as connection:
        apply_steps(
            connection,
            [*steps],
            lock_timeout_seconds=lock_timeout_seconds,
            report=lambda _: None,
        )


def uninstall(url: str) -> None:
    with open_session(url) as connection:
        apply(url, plan_removal(connection))


def triggers(url: str) -> dict[str, int]:
    """Return our triggers on the application's tables, by name, with their oids."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select tgname, t.oid from pg_trigger t join pg_proc p on p.oid = tgfoid"
            " join pg_class c on c.oid = tgrelid"
            " where p.pronamespace = 'bridge'::regnamespace and c.relnamespace <> p.pronamespace"
        ).fetchall()
    return {str(name): int(oid) for name, oid in rows}


def with_payload(event: str, payload: dict[str, str]) -> list[Rule]:
    return [
        rule.model_copy(update={"payload": payload, "extra": None}) if rule.name == event else rule
        for rule in load_preset("telegram-shop")
    ]


def with_operations(event: str, *operations: str) -> list[Rule]:
    return [
        rule.model_copy(update={"on": operations}) if rule.name == event else rule
        for rule in load_preset("telegram-shop")
    ]


def impatient(url: str) -> str:
    """Return the URL of a session that fails instead of waiting forever."""
    return f"{url}&options=-c%20statement_timeout%3D60s"
