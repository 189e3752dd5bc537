"""Plans, applies and removes everything pgbridge puts into a database."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import class_row

from bridge import assets
from bridge.capture.check import MismatchError, check_rules
from bridge.capture.render import RenderedRule, render_paused
from bridge.capture.rules import Rule
from bridge.database import rights
from bridge.database.migrate import MigrationError, Step, is_installed, plan_migrations
from bridge.database.quoting import identifier, literal
from bridge.database.sessions import (
    TRANSACTION_POOLER,
    USE_LISTEN_URL,
    fetch,
    is_shared,
    open_connection,
)

#: A lock that an application's table does not give within the timeout is tried this many times.
LOCK_ATTEMPTS = 10
#: How long an installer waits for another. The longest part of its work is waiting for tables.
INSTALL_LOCK_SECONDS = 60.0


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
    #: Lines on what is right and still may surprise.
    remarks: list[str] = field(default_factory=list)
    #: Of bridge_service and bridge_reader, those that there are not and will not be.
    absent_roles: list[str] = field(default_factory=list)

    def script(self) -> str:
        """Return the SQL of all steps, as ``init`` will run it."""
        parts = [f"-- {step.title}\nbegin;\n{step.sql.strip()}\ncommit;\n" for step in self.steps]
        return "\n".join(parts)

    def summary(self) -> str:
        """Return one line on the rules: how many are new, changed, kept and removed, and which."""
        named = {"new": self.new, "changed": self.changed, "removed": self.removed}
        new, changed, removed = (
            f"{len(rules)} {name}" + (f" ({', '.join(rules)})" if rules else "")
            for name, rules in named.items()
        )
        return f"rules: {new}, {changed}, {len(self.kept)} kept, {removed}"


@dataclass(frozen=True, slots=True)
class AppliedRule:
    """A rule as the database remembers it, and whether what was made of it stands."""

    name: str
    table_name: str
    trigger_name: str
    function_name: str
    trigger_sql: str
    function_sql: str
    is_paused: bool
    table_present: bool
    trigger_present: bool
    trigger_enabled: bool
    trigger_unchanged: bool
    function_unchanged: bool

    @property
    def damage(self) -> str | None:
        """What somebody did to the trigger or its function since they were made, or None."""
        if not self.table_present:
            return f"table {self.table_name} is gone"
        if not self.trigger_present:
            return "its trigger is gone"
        if not self.trigger_enabled:
            return "its trigger is disabled"
        if not self.trigger_unchanged:
            return "its trigger is another one"
        if not self.function_unchanged:
            return "its function is another one"
        return None

    def has_trigger_of(self, rule: RenderedRule) -> bool:
        """Whether the rule's trigger is there as it should be, under its name."""
        return (
            self.trigger_enabled
            and self.trigger_unchanged
            and self.trigger_name == rule.trigger_name
            and self.trigger_sql == rule.trigger_sql
        )

    def has_function_of(self, rule: RenderedRule) -> bool:
        """Whether the rule's function is there as it should be: at work or paused."""
        return self.function_unchanged and self.function_sql == rule.function_sql


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
def install_lock(
    connection: psycopg.Connection[tuple[Any, ...]], *, wait_seconds: float = INSTALL_LOCK_SECONDS
) -> Iterator[None]:
    """Hold the lock that lets one installer work at a time.

    Args:
        wait_seconds: how long to wait for whoever holds it.

    Raises:
        InstallError: it could not be had. The message names the session that holds it, which may
            be anybody's.
    """
    try:
        # A lock of the session: it outlives the transaction, which is there for the timeout.
        with connection.transaction():
            connection.execute(f"set local lock_timeout = {max(1, round(wait_seconds * 1000))}")
            fetch(connection, "install_lock")
    except psycopg.errors.LockNotAvailable:
        holder = "another session"
        for row in fetch(connection, "install_lock_holder"):
            holder = _spell_session(**row)
        raise InstallError(
            f"{holder} has held the lock of installers for more than {wait_seconds:g} s; try again "
            "when it has ended, or end it with pg_terminate_backend if it is none of pgbridge's"
        ) from None
    yield
    connection.execute("select pg_advisory_unlock(hashtext('bridge.install'))")


def plan(
    connection: psycopg.Connection[tuple[Any, ...]],
    rules: Sequence[Rule],
    *,
    quiet_doorbell: bool = False,
    create_roles: bool = False,
    may_install: bool = True,
) -> Plan:
    """Compare the database with what it should be, and return the steps between.

    Args:
        quiet_doorbell: end with the doorbell quiet, for a bridge that polls.
        create_roles: make the roles bridge_service and bridge_reader, where they are not there.
        may_install: refuse what this role may not install. Without it, the plan may be for others.

    Raises:
        InstallError: a rule does not fit the database, or the schema cannot be migrated.
    """
    try:
        migrations = plan_migrations(connection)
        with _trial(connection, migrations):
            checked = check_rules(connection, rules, may_install=may_install)
        roles = _plan_roles(connection, create=create_roles, anew=bool(migrations))
        applied = {rule.name: rule for rule in applied_rules(connection)}
        rings = _doorbell_rings(connection)
    except (MigrationError, MismatchError) as error:
        raise InstallError(str(error)) from None
    except psycopg.Error as error:
        raise InstallError(refusal(error)) from None

    absent, role_steps = roles
    # The rights before the rules, which may have to wait for tables: a bridge that runs needs them
    # as soon as the schema is another one.
    result = Plan([*migrations, *role_steps], remarks=checked.remarks, absent_roles=absent)
    wanted = {rule.name: rule for rule in checked.rules}
    for name, rule in wanted.items():
        known = applied.get(name)
        if known is None:
            result.new.append(name)
        elif known.has_trigger_of(rule) and known.has_function_of(rule):
            result.kept.append(name)
            continue
        else:
            result.changed.append(name)
        result.steps.append(_creation(rule, known))
    # Last: rows of an event that was renamed come under both names for a moment, not under none.
    for name, old in applied.items():
        if name not in wanted:
            result.removed.append(name)
            result.steps.append(_removal(old))
    if quiet_doorbell and rings:
        result.steps.append(
            Step("quiet the doorbell", "select pg_catalog.setval('bridge.doorbell', 1);")
        )
    return result


def apply(
    connection: psycopg.Connection[tuple[Any, ...]],
    steps: Sequence[Step],
    *,
    lock_timeout_seconds: float,
    report: Callable[[str], None],
) -> None:
    """Run the steps, each as one transaction.

    A step waits no longer than the timeout for a lock on a table, of the application or of schema
    bridge, so that nothing queues up behind it for longer; then it steps back and tries again.

    Raises:
        InstallError: a step was refused, or its lock could not be had.
    """
    milliseconds = max(1, round(lock_timeout_seconds * 1000))
    for step in steps:
        report(step.title)
        locked = step.locks or "schema bridge"
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                with connection.transaction():
                    connection.execute(f"set local lock_timeout = {milliseconds}")
                    connection.execute(step.sql.encode())
                break
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                blockers = _blockers(connection, step)
                if attempt == LOCK_ATTEMPTS:
                    raise InstallError(
                        f"{step.title}: {blockers} keeps {locked} locked; "
                        "try again when it has ended"
                    ) from None
                report(f"{step.title}: {locked} is locked by {blockers}, waiting")
                time.sleep(min(0.1 * 2**attempt, 5.0))
            except psycopg.Error as error:
                raise InstallError(f"{step.title}: {refusal(error)}") from None


def plan_removal(connection: psycopg.Connection[tuple[Any, ...]]) -> list[Step]:
    """Return the steps that take pgbridge out of the database: none, if it is not there.

    Raises:
        InstallError: the schema called bridge is not pgbridge's.
    """
    try:
        if not is_installed(connection):
            return []
        removals = [_removal(rule) for rule in applied_rules(connection)]
    except MigrationError as error:
        raise InstallError(str(error)) from None
    except psycopg.Error as error:
        raise InstallError(refusal(error)) from None
    return [*removals, Step("drop schema bridge", "drop schema bridge cascade;")]


def present_roles(connection: psycopg.Connection[tuple[Any, ...]]) -> list[str]:
    """Return which of bridge_service and bridge_reader there are on the server."""
    absent = rights.absent_roles(fetch(connection, "rights"))
    return [name for name in rights.ROLES if name not in absent]


def pause(connection: psycopg.Connection[tuple[Any, ...]], name: str | None) -> list[str]:
    """Have a rule, or every rule, capture nothing from now on. The application's tables and their
    triggers are not touched, so nobody waits.

    Returns the names of the rules that were at work.

    Raises:
        InstallError: there is no such rule.
    """
    with connection.transaction():
        rules = [rule for rule in _named(connection, name) if not rule.is_paused]
        for rule in rules:
            _replace_function(connection, rule, render_paused(rule.function_name), paused=True)
    return [rule.name for rule in rules]


def resume(connection: psycopg.Connection[tuple[Any, ...]], name: str | None) -> list[str]:
    """Have a paused rule, or all of them, capture again, as they were applied last.

    Returns the names of the rules that were paused.

    Raises:
        InstallError: there is no such rule.
    """
    with connection.transaction():
        rules = [rule for rule in _named(connection, name) if rule.is_paused]
        for rule in rules:
            _replace_function(connection, rule, rule.function_sql, paused=False)
    return [rule.name for rule in rules]


def applied_rules(connection: psycopg.Connection[tuple[Any, ...]]) -> list[AppliedRule]:
    """Return the rules as they were applied last: none before there is a table of them."""
    registered = connection.execute("select to_regclass('bridge.capture_rules') is not null")
    if registered.fetchone() != (True,):
        return []
    with connection.cursor(row_factory=class_row(AppliedRule)) as cursor:
        return cursor.execute(assets.query("applied_rules").encode()).fetchall()


def _plan_roles(
    connection: psycopg.Connection[tuple[Any, ...]], *, create: bool, anew: bool
) -> tuple[list[str], list[Step]]:
    """Return the roles that there will not be, and the steps that make and equip the others.

    Args:
        create: make those that are not there.
        anew: grant everything, and not only what is missing now: migrations may take rights away.
    """
    rows = fetch(connection, "rights")
    absent = rights.absent_roles(rows)
    steps = []
    if absent and create:
        [row] = fetch(connection, "may_install")
        script = "".join(f"create role {name} nologin;\n" for name in absent)
        if not row["may_create_role"]:
            raise InstallError(
                f"role {row['role']} may not create roles; have an administrator run, and then "
                f"run pgbridge init again: {' '.join(script.split())}"
            )
        steps.append(Step(f"create {' and '.join(absent)}", script))
        absent = []
    roles = [name for name in rights.ROLES if name not in absent]
    if grants := rights.grants(rows, roles, only_missing=not anew):
        steps.append(Step(f"grant what {' and '.join(roles)} need", "\n".join(grants)))
    return absent, steps


def _named(connection: psycopg.Connection[tuple[Any, ...]], name: str | None) -> list[AppliedRule]:
    """Return the applied rule of this name, or all."""
    rules = applied_rules(connection)
    found = [rule for rule in rules if name in (None, rule.name)]
    if not rules:
        raise InstallError("there are no rules; run: pgbridge init")
    if not found:
        there = ", ".join(rule.name for rule in rules)
        raise InstallError(f"there is no rule called {name!r}; there are {there}")
    return found


def _replace_function(
    connection: psycopg.Connection[tuple[Any, ...]],
    rule: AppliedRule,
    function_sql: str,
    *,
    paused: bool,
) -> None:
    connection.execute(function_sql.encode())
    connection.execute(
        "update bridge.capture_rules"
        " set paused_at = case when %(paused)s then clock_timestamp() end,"
        "     function_definition = pg_get_functiondef(to_regproc(function_name))"
        " where name = %(name)s",
        {"paused": paused, "name": rule.name},
    )


@contextmanager
def _trial(
    connection: psycopg.Connection[tuple[Any, ...]], migrations: Sequence[Step]
) -> Iterator[None]:
    """Have schema bridge there for the time of the context, and gone after it as it was before.

    Rules may call its functions, and are checked before anything is installed.

    Raises:
        InstallError: this role may not create the schema, or a step fails.
    """
    if is_installed(connection):
        yield
        return
    [may] = fetch(connection, "may_install")
    if not may["may_create_schema"]:
        database, role = identifier(connection.info.dbname), identifier(may["role"])
        raise InstallError(
            f"permission denied: role {may['role']} may not create schema bridge; run init as the "
            "owner of the application's tables, and if that is this role, have an administrator "
            "run first: "
            f"grant create on database {database} to {role}"
        )
    with connection.transaction(force_rollback=True):
        for step in migrations:
            try:
                connection.execute(step.sql.encode())
            except psycopg.Error as error:
                raise InstallError(f"{step.title}: {refusal(error)}") from None
        yield


def _doorbell_rings(connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
    """Return whether the doorbell is there and not quiet."""
    found = connection.execute(
        "select pg_sequence_last_value(to_regclass('bridge.doorbell')) = 0"
    ).fetchone()
    return found == (True,)


def _blockers(connection: psycopg.Connection[tuple[Any, ...]], step: Step) -> str:
    """Return who holds a lock that a step waited for, for people."""
    holders = connection.execute(
        assets.query("lock_holders").encode(),
        {"table": step.locks, "readers": step.locks_out_readers or step.locks is None},
    ).fetchall()
    return (
        " and ".join(
            f"{_spell_session(pid, role, application, state)[:-1]}, for {seconds:.0f} s)"
            for pid, role, application, state, seconds in holders
        )
        # It has ended, between our waiting and our asking.
        or "another transaction"
    )


def _spell_session(
    pid: int | None, role: str | None, application_name: str | None, state: str | None
) -> str:
    if pid is None:
        return "a prepared transaction"
    return f"pid {pid} ({role}, {application_name or 'no application_name'}, {state})"


def _creation(rule: RenderedRule, known: AppliedRule | None) -> Step:
    replace_trigger = known is None or not known.has_trigger_of(rule)
    paused = known is not None and known.is_paused
    old = ""
    # The old trigger goes in the transaction in which the new one comes: no row is missed. It goes
    # only where it cannot be replaced in place, because dropping it locks out readers, too.
    if (
        replace_trigger
        and known is not None
        and known.trigger_present
        and (
            known.trigger_name != rule.trigger_name
            or known.table_name != rule.table
            or "constraint trigger" in known.trigger_sql + rule.trigger_sql
            or not known.trigger_unchanged
        )
    ):
        old = _drop_trigger(known.trigger_name, known.table_name)
    values = (
        rule.name,
        rule.table,
        rule.trigger_name,
        rule.function_name,
        rule.trigger_sql,
        rule.function_sql,
    )
    columns = "name, table_name, trigger_name, function_name, trigger_sql, function_sql"
    return Step(
        f"capture {rule.name}",
        f"{render_paused(rule.function_name) if paused else rule.function_sql}\n"
        f"revoke all on function {rule.function_name}() from public;\n"
        f"{old}{rule.trigger_sql if replace_trigger else ''}\n"
        "insert into bridge.capture_rules\n"
        f"    ({columns}, trigger_definition, function_definition)\n"
        f"select {', '.join(literal(value) for value in values)},\n"
        "       pg_catalog.pg_get_triggerdef(t.oid), pg_catalog.pg_get_functiondef(t.tgfoid)\n"
        "from pg_catalog.pg_trigger t\n"
        f"where t.tgrelid = {literal(rule.table)}::pg_catalog.regclass\n"
        f"  and t.tgname = {literal(rule.trigger_name)}\n"
        "on conflict on constraint capture_rules_pkey do update\n"
        f"set ({columns}, trigger_definition, function_definition) =\n"
        "    (excluded.name, excluded.table_name, excluded.trigger_name, excluded.function_name,\n"
        "     excluded.trigger_sql, excluded.function_sql, excluded.trigger_definition,\n"
        "     excluded.function_definition),\n"
        "    failure_count = 0, last_failed_at = null, last_error = null, applied_at = now();",
        locks=rule.table if replace_trigger else None,
        locks_out_readers=bool(old),
    )


def _removal(rule: AppliedRule) -> Step:
    trigger = _drop_trigger(rule.trigger_name, rule.table_name) if rule.table_present else ""
    # Cascade, for a trigger whose table was renamed since.
    return Step(
        f"remove {rule.name}",
        f"{trigger}"
        f"drop function if exists {rule.function_name}() cascade;\n"
        f"delete from bridge.capture_rules where name = {literal(rule.name)};",
        locks=rule.table_name,
        locks_out_readers=True,
    )


def _drop_trigger(name: str, table: str) -> str:
    return f"drop trigger if exists {identifier(name)} on {table};\n"


def refusal(error: psycopg.Error) -> str:
    """Return why a command failed as one line, and where to look if its role may not do this."""
    remedy = ""
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        remedy = "; docs/roles.md says which role this command needs"
    return one_line(error) + remedy


def one_line(error: psycopg.Error) -> str:
    """Return what PostgreSQL said as one line, without the values of a row that it refused."""
    if isinstance(error, psycopg.IntegrityError) and error.diag.message_primary:
        return error.diag.message_primary
    return " ".join(str(error).split()) or type(error).__name__
