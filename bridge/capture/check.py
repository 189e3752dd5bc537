"""Holds rules against the database that they are for, before anything is changed there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import pq

from bridge import assets
from bridge.capture.render import Column, ColumnError, Expression, RenderedRule, Table, render
from bridge.capture.rules import CaptureRule, Rule

#: What has a table's name and no rows of its own to capture, by pg_class.relkind.
_NO_TABLES = {
    "v": "a view; name the table under it",
    "m": "a materialized view; name the tables under it",
    "f": "a foreign table; its rows change elsewhere",
}
#: The variables of a trigger function that are no rows, with their types.
_TRIGGER_VARIABLES = {
    "tg_name": "name",
    "tg_when": "text",
    "tg_level": "text",
    "tg_op": "text",
    "tg_relid": "oid",
    "tg_table_name": "name",
    "tg_table_schema": "name",
    "tg_nargs": "integer",
    "tg_argv": "text[]",
}


class MismatchError(Exception):
    """A rule does not fit the database. The message names the rule, the key and the mistake."""


@dataclass(frozen=True, slots=True)
class CheckedRules:
    """Rules as SQL that the database understands.

    ``remarks`` are lines on what is right and still may surprise.
    """

    rules: list[RenderedRule]
    remarks: list[str]


def check_rules(
    connection: psycopg.Connection[tuple[Any, ...]],
    rules: Iterable[Rule],
    *,
    may_install: bool = True,
) -> CheckedRules:
    """Render the rules, and have the database parse every piece of SQL in them. Changes nothing.

    Args:
        may_install: refuse a table on which this role may not create triggers.

    Raises:
        MismatchError: naming the first rule and key that is wrong.
    """
    rendered: list[RenderedRule] = []
    remarks: list[str] = []
    places: Counter[str] = Counter()
    for rule in rules:
        where = f"[[{'capture' if isinstance(rule, CaptureRule) else 'note'}]] {_short_name(rule)}"
        row = connection.execute(
            assets.query("describe_table").encode(), {"table": rule.table}
        ).fetchone()
        if row is None:
            raise MismatchError(
                f"{where}: table {rule.table} is not in this database; "
                "is BRIDGE_DATABASE_URL the application's database, with its tables created?"
            )
        name, kind, may_create_trigger, heirs, columns = row
        if kind not in ("r", "p"):
            raise MismatchError(
                f"{where}: table: {rule.table} is {_NO_TABLES.get(kind, 'not a table')}"
            )
        if may_install and not may_create_trigger:
            raise MismatchError(
                f"{where}: table: this role may not create triggers on {rule.table}; "
                "run init as the table's owner"
            )
        if heirs:
            remarks.append(
                f"{where}: rows written to {', '.join(heirs)}, which inherit from {rule.table}, "
                "are not captured by it; they need rules of their own"
            )
        table = Table(
            {each["name"]: Column(each["type"], each["virtual_sql"]) for each in columns},
            is_partitioned=kind == "p",
        )
        places[name] += 1
        try:
            result = render(rule, table, places[name])
        except ColumnError as error:
            raise MismatchError(f"{where}: {error}") from None
        for expression in result.expressions:
            if (mistake := _mistake(connection, rule, expression)) is not None:
                raise MismatchError(f"{where}: {expression.key}: {mistake}")
        rendered.append(result)
    return CheckedRules(rendered, remarks)


def _short_name(rule: Rule) -> str:
    return rule.event if isinstance(rule, CaptureRule) else rule.topic


def _mistake(
    connection: psycopg.Connection[tuple[Any, ...]], rule: Rule, expression: Expression
) -> str | None:
    """Return what PostgreSQL has against an expression over NEW and OLD, or None.

    It is parsed as a statement and never run. A set of rows is not allowed within CASE, as it is
    not in a trigger function.
    """
    form = (
        "case when ({}\n) then 1 end"
        if expression.is_condition
        else "case when true then ({}\n) end"
    )
    variables = ", ".join(f"null::{kind} as {name}" for name, kind in _TRIGGER_VARIABLES.items())
    sources = [f"(select {variables}) as variables"]
    if rule.on != ("truncate",):
        sources += [f"{rule.table} as {row}" for row in ("new", "old")]
    # As a prepared statement: that is one statement, whatever the expression says.
    statement = f"select {form.format(expression.sql)} from {', '.join(sources)}"  # noqa: S608
    result = connection.pgconn.prepare(b"", statement.encode())
    if result.status != pq.ExecStatus.COMMAND_OK:
        said = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"it is not SQL"
        hint = ""
        if result.error_field(pq.DiagnosticField.SQLSTATE) == b"42702":  # ambiguous column
            hint = "; write new. or old. before it"
        return " ".join(said.decode(errors="replace").split()) + hint
    if connection.pgconn.describe_prepared(b"").nparams:
        return "$1 and the like stand for nothing here"
    return None
