"""Plans, applies and removes everything pgbridge puts into a database."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row

from bridge import assets
from bridge.capture.migrate import MigrationError, Step, is_installed, plan_migrations
from bridge.capture.render import RenderedRule, Table, identifier, literal, render
from bridge.capture.rules import Rule

#: A lock that an application's table does not give within the timeout is tried this many times.
LOCK_ATTEMPTS = 10


class InstallError(Exception):
    """The installation cannot go on. The message says why and what to do."""


@dataclass
class Plan:
    """The steps that ``init`` will run, and what becomes of each rule."""

    steps: list[Step] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def script(self) -> str:
        """Return the SQL of all steps, as ``init`` will run it."""
        parts = [f"-- {step.title}\nbegin;\n{step.sql.strip()}\ncommit;\n" for step in self.steps]
        return "\n".join(parts)

    def summary(self) -> str:
        """Return one line on the rules: how many are new, changed, kept and removed."""
        counts = {"new": self.new, "changed": self.changed, "kept": self.kept}
        words = [f"{len(rules)} {name}" for name, rules in counts.items()]
        return "rules: " + ", ".join([*words, f"{len(self.removed)} removed"])


@dataclass(frozen=True, slots=True)
class _AppliedRule:
    rule: RenderedRule
    trigger_present: bool
    table_present: bool


@contextmanager
def connect(url: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Open a connection for installing: autocommit, with a plain search_path.

    Raises:
        InstallError: the database cannot be reached.
    """
    try:
        connection = psycopg.connect(
            url, autocommit=True, connect_timeout=10, application_name="pgbridge-init"
        )
    except psycopg.Error as error:
        raise InstallError(f"cannot connect to the database: {_one_line(error)}") from None
    with connection:
        connection.execute("set search_path = pg_catalog, pg_temp")
        connection.execute("set timezone = 'UTC'")
        yield connection


@contextmanager
def install_lock(connection: psycopg.Connection[tuple[Any, ...]]) -> Iterator[None]:
    """Hold the lock that lets one installer work at a time; wait for it if need be."""
    connection.execute("select pg_advisory_lock(hashtext('bridge.install'))")
    yield
    connection.execute("select pg_advisory_unlock(hashtext('bridge.install'))")


def plan(connection: psycopg.Connection[tuple[Any, ...]], rules: Sequence[Rule]) -> Plan:
    """Compare the database with what it should be, and return the steps between.

    Raises:
        InstallError: a rule's table is missing, or the schema cannot be migrated.
    """
    try:
        result = Plan(steps=plan_migrations(connection))
        registered = connection.execute("select to_regclass('bridge.capture_rules') is not null")
        applied = _applied(connection) if registered.fetchone() == (True,) else {}
    except MigrationError as error:
        raise InstallError(str(error)) from None
    wanted = {
        rule.name: render(rule, _describe(connection, rule), position)
        for position, rule in enumerate(rules, start=1)
    }

    for name, old in applied.items():
        if name not in wanted:
            result.removed.append(name)
        if name not in wanted or wanted[name].trigger_id != old.rule.trigger_id:
            result.steps.append(_removal(old))
    for name, rule in wanted.items():
        known = applied.get(name)
        trigger_stays = (
            known is not None
            and known.trigger_present
            and known.rule.trigger_sql == rule.trigger_sql
        )
        if known is None:
            result.new.append(name)
        elif trigger_stays and known.rule == rule:
            result.kept.append(name)
            continue
        else:
            result.changed.append(name)
        result.steps.append(_creation(rule, replace_trigger=not trigger_stays))
    return result


def apply(
    connection: psycopg.Connection[tuple[Any, ...]],
    steps: Sequence[Step],
    *,
    lock_timeout_seconds: float,
    report: Callable[[str], None],
) -> None:
    """Run the steps, each as one transaction.

    A step that locks a table of the application waits for it no longer than the timeout, so that
    nothing queues up behind it for longer; then it steps back and tries again.

    Raises:
        InstallError: a step was refused, or its lock could not be had.
    """
    for step in steps:
        report(step.title)
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                with connection.transaction():
                    if step.locks:
                        milliseconds = max(1, round(lock_timeout_seconds * 1000))
                        connection.execute(f"set local lock_timeout = {milliseconds}")
                    connection.execute(step.sql.encode())
                break
            except psycopg.errors.LockNotAvailable:
                if attempt == LOCK_ATTEMPTS:
                    raise InstallError(
                        f"{step.title}: another transaction keeps {step.locks} locked; "
                        "try again when it has ended"
                    ) from None
                report(f"{step.title}: {step.locks} is locked by another transaction, waiting")
                time.sleep(min(0.1 * 2**attempt, 5.0))
            except psycopg.Error as error:
                raise InstallError(f"{step.title}: {_one_line(error)}") from None


def plan_removal(connection: psycopg.Connection[tuple[Any, ...]]) -> list[Step]:
    """Return the steps that take pgbridge out of the database: none, if it is not there.

    Raises:
        InstallError: the schema called bridge is not pgbridge's.
    """
    try:
        if not is_installed(connection):
            return []
    except MigrationError as error:
        raise InstallError(str(error)) from None
    removals = [_removal(rule) for rule in _applied(connection).values()]
    return [*removals, Step("drop schema bridge", "drop schema bridge cascade;")]


def _describe(connection: psycopg.Connection[tuple[Any, ...]], rule: Rule) -> Table:
    row = connection.execute(
        assets.query("describe_table").encode(), {"table": rule.table}
    ).fetchone()
    if row is None:
        raise InstallError(
            f"rule {rule.name}: table {rule.table} is not in this database; "
            "is BRIDGE_DATABASE_URL the application's database, with its tables created?"
        )
    columns, key_columns = row
    return Table(frozenset(columns), tuple(key_columns))


def _applied(connection: psycopg.Connection[tuple[Any, ...]]) -> dict[str, _AppliedRule]:
    """Return the rules as they were applied last, by name."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(assets.query("applied_rules").encode()).fetchall()
    return {
        row["name"]: _AppliedRule(
            RenderedRule(
                row["name"],
                row["table_name"],
                row["trigger_name"],
                row["function_name"],
                row["trigger_sql"],
                row["function_sql"],
            ),
            trigger_present=row["trigger_present"],
            table_present=row["table_present"],
        )
        for row in rows
    }


def _creation(rule: RenderedRule, *, replace_trigger: bool) -> Step:
    values = (
        rule.name,
        rule.table,
        rule.trigger_name,
        rule.function_name,
        rule.trigger_sql,
        rule.function_sql,
    )
    trigger = (
        f"drop trigger if exists {identifier(rule.trigger_name)} on {rule.table};\n"
        f"{rule.trigger_sql}\n"
    )
    return Step(
        f"capture {rule.name}",
        f"{rule.function_sql}\n"
        f"revoke all on function {rule.function_name}() from public;\n"
        f"{trigger if replace_trigger else ''}"
        "insert into bridge.capture_rules\n"
        "    (name, table_name, trigger_name, function_name, trigger_sql, function_sql)\n"
        f"values ({', '.join(literal(value) for value in values)})\n"
        "on conflict on constraint capture_rules_pkey do update\n"
        "set table_name = excluded.table_name, trigger_name = excluded.trigger_name,\n"
        "    function_name = excluded.function_name, trigger_sql = excluded.trigger_sql,\n"
        "    function_sql = excluded.function_sql, applied_at = now();",
        locks=rule.table if replace_trigger else None,
    )


def _removal(applied: _AppliedRule) -> Step:
    rule = applied.rule
    trigger = f"drop trigger if exists {identifier(rule.trigger_name)} on {rule.table};\n"
    return Step(
        f"remove {rule.name}",
        f"{trigger if applied.table_present else ''}"
        f"drop function if exists {rule.function_name}();\n"
        f"delete from bridge.capture_rules where name = {literal(rule.name)};",
        locks=rule.table,
    )


def _one_line(error: psycopg.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__
