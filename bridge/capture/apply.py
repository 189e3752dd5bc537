"""Run the planned steps, pause and resume rules, and let only one installer work at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg

from bridge.capture.models import AppliedRule, applied_rules
from bridge.capture.owners import owner_problem
from bridge.capture.render import render_paused
from bridge.database.migrate import InstallError, Step
from bridge.database.sessions import Connection, fetch, one_line_with_hint

#: How often a step is tried if it cannot lock the application's table.
LOCK_ATTEMPTS = 10
#: How long an installer waits for another, which spends most of its time waiting for table locks.
INSTALL_LOCK_SECONDS = 60.0


@contextmanager
def install_lock(
    connection: Connection, *, wait_seconds: float = INSTALL_LOCK_SECONDS
) -> Iterator[None]:
    """Hold the lock that lets one installer work at a time.

    Raises:
        InstallError: another session kept the lock for the whole wait. The message names that
            session, which may be anybody's.
    """
    try:
        # The lock belongs to the session; the transaction is only there for the timeout.
        with connection.transaction():
            connection.execute(f"set local lock_timeout = {max(1, round(wait_seconds * 1000))}")
            fetch(connection, "install_lock")
    except psycopg.errors.LockNotAvailable:
        holder = "another session"
        for row in fetch(connection, "install_lock_holder"):
            holder = _describe_session(**row)
        raise InstallError(
            f"{holder} has held the installation lock for more than {wait_seconds:g} s; try again "
            "when it has ended, or end it with pg_terminate_backend if it is not pgbridge"
        ) from None
    yield
    connection.execute("select pg_advisory_unlock(hashtext('bridge.install'))")


def apply_steps(
    connection: Connection,
    steps: Sequence[Step],
    *,
    lock_timeout_seconds: float,
    report: Callable[[str], None],
) -> None:
    """Run each step in its own transaction.

    If a step cannot lock a table within the timeout, it rolls back and tries again later, so that
    the application's statements never queue behind it for longer.

    Args:
        report: called with each step's title, and with what a step waits for.

    Raises:
        InstallError: a step failed, or could not get its lock.
    """
    milliseconds = max(1, round(lock_timeout_seconds * 1000))
    for step in steps:
        report(step.title)
        locked = step.locked_table or "schema bridge"
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                with connection.transaction():
                    connection.execute(f"set local lock_timeout = {milliseconds}")
                    connection.execute(step.sql.encode())
                break
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                holders = _lock_holders(connection, step)
                if attempt == LOCK_ATTEMPTS:
                    raise InstallError(
                        f"{step.title}: {holders} keeps {locked} locked; "
                        "try again when it has ended"
                    ) from None
                report(f"{step.title}: {locked} is locked by {holders}, waiting")
                time.sleep(min(0.1 * 2**attempt, 5.0))
            except psycopg.Error as error:
                raise InstallError(f"{step.title}: {one_line_with_hint(error)}") from None


def set_paused(connection: Connection, name: str | None, *, paused: bool) -> list[str]:
    """Pause or resume the capture of a rule, or of every rule if the name is None.

    Replaces the rules' functions, so it takes no lock on the application's tables.

    Returns:
        The names of the rules that this has changed.

    Raises:
        InstallError: the rule is unknown, or would run other roles' code with its owner's rights.
    """
    with connection.transaction():
        rules = [rule for rule in _find(connection, name) if rule.is_paused != paused]
        tables = [] if paused else [rule.table_name for rule in rules]
        owners = fetch(connection, "untrusted_owners", tables=tables, view=None)
        if (problem := owner_problem(owners, is_installed=True)) is not None:
            raise InstallError("; ".join(problem))
        for rule in rules:
            function_sql = render_paused(rule.function_name) if paused else rule.function_sql
            connection.execute(function_sql.encode())
            fetch(connection, "mark_rule_paused", name=rule.name, paused=paused)
    return [rule.name for rule in rules]


def _find(connection: Connection, name: str | None) -> list[AppliedRule]:
    """Return the applied rule of this name, or all rules if the name is None."""
    rules = applied_rules(connection)
    found = [rule for rule in rules if name in (None, rule.name)]
    if not rules:
        raise InstallError("there are no rules; run: pgbridge init")
    if not found:
        names = ", ".join(rule.name for rule in rules)
        raise InstallError(f"unknown rule {name!r}; the rules are {names}")
    return found


def _lock_holders(connection: Connection, step: Step) -> str:
    """Describe the sessions that hold the lock a step waited for."""
    holders = fetch(
        connection,
        "lock_holders",
        table=step.locked_table,
        readers=step.blocks_readers or step.locked_table is None,
    )
    # If no row is found, the holder ended between our timeout and this query.
    return " and ".join(_describe_session(**row) for row in holders) or "another transaction"


def _describe_session(
    pid: int | None,
    role: str | None,
    application_name: str | None,
    state: str | None,
    seconds: float | None = None,
) -> str:
    if pid is None:
        return "a prepared transaction"
    since = "" if seconds is None else f", for {seconds:.0f} s"
    return f"pid {pid} ({role}, {application_name or 'no application_name'}, {state}{since})"
