"""Plans, applies and removes everything pgbridge puts into a database."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import class_row

from bridge import assets
from bridge.capture.migrate import MigrationError, Step, is_installed, plan_migrations
from bridge.capture.render import RenderedRule, Table, identifier, literal, render
from bridge.capture.rules import Rule
from bridge.capture.sessions import (
    TRANSACTION_POOLER,
    USE_LISTEN_URL,
    is_shared,
    open_connection,
)

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
    """A rule as the database remembers it."""

    name: str
    table_name: str
    trigger_name: str
    function_name: str
    trigger_checksum: str
    function_checksum: str
    trigger_present: bool
    table_present: bool

    def has_trigger_of(self, rule: RenderedRule) -> bool:
        """Whether the rule's trigger is there as it should be, under its name."""
        return (
            self.trigger_present
            and self.trigger_name == rule.trigger_name
            and self.trigger_checksum == _checksum(rule.trigger_sql)
        )


@contextmanager
def connect(url: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Open a connection for installing: autocommit, with a plain search_path.

    Raises:
        InstallError: the database cannot be reached, or not in a session of one's own.
    """
    try:
        connection = open_connection(url, "pgbridge-init")
    except psycopg.Error as error:
        raise InstallError(f"cannot connect to the database: {one_line(error)}") from None
    with connection:
        # What is set below would stay behind in a session that the application gets next.
        if is_shared(connection, url):
            raise InstallError(
                f"the connection goes through {TRANSACTION_POOLER}, where locks and settings of "
                f"a session do not hold; {USE_LISTEN_URL}"
            )
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
        applied = _applied(connection)
        wanted = {
            rule.name: render(rule, _describe(connection, rule), position)
            for position, rule in enumerate(rules, start=1)
        }
    except MigrationError as error:
        raise InstallError(str(error)) from None
    except psycopg.Error as error:
        raise InstallError(one_line(error)) from None

    for name, old in applied.items():
        if name not in wanted:
            result.removed.append(name)
            result.steps.append(_removal(old))
    for name, rule in wanted.items():
        known = applied.get(name)
        trigger_stays = known is not None and known.has_trigger_of(rule)
        if known is None:
            result.new.append(name)
        elif trigger_stays and known.function_checksum == _checksum(rule.function_sql):
            result.kept.append(name)
            continue
        else:
            result.changed.append(name)
        result.steps.append(_creation(rule, known, replace_trigger=not trigger_stays))
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
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                if attempt == LOCK_ATTEMPTS:
                    raise InstallError(
                        f"{step.title}: another transaction keeps {step.locks} locked; "
                        "try again when it has ended"
                    ) from None
                report(f"{step.title}: {step.locks} is locked by another transaction, waiting")
                time.sleep(min(0.1 * 2**attempt, 5.0))
            except psycopg.Error as error:
                raise InstallError(f"{step.title}: {one_line(error)}") from None


def plan_removal(connection: psycopg.Connection[tuple[Any, ...]]) -> list[Step]:
    """Return the steps that take pgbridge out of the database: none, if it is not there.

    Raises:
        InstallError: the schema called bridge is not pgbridge's.
    """
    try:
        if not is_installed(connection):
            return []
        removals = [_removal(rule) for rule in _applied(connection).values()]
    except MigrationError as error:
        raise InstallError(str(error)) from None
    except psycopg.Error as error:
        raise InstallError(one_line(error)) from None
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
    [columns] = row
    return Table(frozenset(columns))


def _applied(connection: psycopg.Connection[tuple[Any, ...]]) -> dict[str, _AppliedRule]:
    """Return the rules as they were applied last, by name: none before there is a table of them."""
    registered = connection.execute("select to_regclass('bridge.capture_rules') is not null")
    if registered.fetchone() != (True,):
        return {}
    with connection.cursor(row_factory=class_row(_AppliedRule)) as cursor:
        rows = cursor.execute(assets.query("applied_rules").encode()).fetchall()
    return {rule.name: rule for rule in rows}


def _creation(rule: RenderedRule, known: _AppliedRule | None, *, replace_trigger: bool) -> Step:
    values = (
        rule.name,
        rule.table,
        rule.trigger_name,
        rule.function_name,
        _checksum(rule.trigger_sql),
        _checksum(rule.function_sql),
    )
    trigger = f"{_drop_trigger(rule.trigger_name, rule.table)}{rule.trigger_sql}\n"
    if known is not None and known.table_present:
        # The old trigger goes in the transaction in which the new one comes: no row is missed.
        old = _drop_trigger(known.trigger_name, known.table_name)
        trigger = trigger if trigger.startswith(old) else old + trigger
    return Step(
        f"capture {rule.name}",
        f"{rule.function_sql}\n"
        f"revoke all on function {rule.function_name}() from public;\n"
        f"{trigger if replace_trigger else ''}"
        "insert into bridge.capture_rules\n"
        "    (name, table_name, trigger_name, function_name, trigger_checksum, function_checksum)\n"
        f"values ({', '.join(literal(value) for value in values)})\n"
        "on conflict on constraint capture_rules_pkey do update\n"
        "set table_name = excluded.table_name, trigger_name = excluded.trigger_name,\n"
        "    function_name = excluded.function_name,\n"
        "    trigger_checksum = excluded.trigger_checksum,\n"
        "    function_checksum = excluded.function_checksum, applied_at = now();",
        locks=rule.table if replace_trigger else None,
    )


def _removal(rule: _AppliedRule) -> Step:
    trigger = _drop_trigger(rule.trigger_name, rule.table_name) if rule.table_present else ""
    # Cascade, for a trigger whose table was renamed since.
    return Step(
        f"remove {rule.name}",
        f"{trigger}"
        f"drop function if exists {rule.function_name}() cascade;\n"
        f"delete from bridge.capture_rules where name = {literal(rule.name)};",
        locks=rule.table_name,
    )


def _drop_trigger(name: str, table: str) -> str:
    return f"drop trigger if exists {identifier(name)} on {table};\n"


def _checksum(sql: str) -> str:
    return hashlib.sha256(sql.encode()).hexdigest()


def one_line(error: psycopg.Error) -> str:
    """Return what PostgreSQL said as one line."""
    return " ".join(str(error).split()) or type(error).__name__
