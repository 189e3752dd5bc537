"""``pgbridge init`` and ``pgbridge uninstall``."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated

import psycopg
import typer

from bridge.capture.apply import apply_steps, install_lock
from bridge.capture.models import Plan, script_of
from bridge.capture.plan import plan_install, plan_removal
from bridge.cli.context import database_session, read_rules, read_settings
from bridge.cli.output import Yes, ask
from bridge.database import rights
from bridge.database.migrate import Step, is_installed
from bridge.database.sessions import Connection, fetch
from bridge.settings import config_source
from bridge.terminal.output import say, show_text
from bridge.terminal.visible import visible

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the SQL without running it.")]

#: Up to where uninstall_loss counts.
MOST_COUNTED = 10_000


def init(
    dry_run: DryRun = False,
    create_roles: Annotated[
        bool,
        typer.Option(
            "--create-roles",
            help="Create the roles bridge_service and bridge_reader if they are missing.",
        ),
    ] = False,
    allow_publications: Annotated[
        bool,
        typer.Option(
            "--allow-publications",
            help="Install although a publication replicates schema bridge to its subscribers.",
        ),
    ] = False,
    yes: Yes = False,
) -> None:
    """Install or update schema bridge and its triggers.

    Asks before it removes rules.
    """
    settings = read_settings()
    rules = read_rules(settings)
    quiet, timeout = settings.doorbell == "poll", settings.lock_timeout_seconds
    with (
        database_session(settings) as connection,
        nullcontext() if dry_run else install_lock(connection),
    ):
        planned = plan_install(
            connection,
            rules,
            quiet_doorbell=quiet,
            create_roles=create_roles,
            allow_publications=allow_publications,
        )
        if dry_run:
            _show_script(planned.steps)
        else:
            if planned.removed and not yes:
                # Ask while holding the lock, so that exactly these rules are removed.
                _ask_to_remove(planned.removed)
            apply_steps(connection, planned.steps, lock_timeout_seconds=timeout, report=say)
    _report(planned)


def uninstall(dry_run: DryRun = False, yes: Yes = False) -> None:
    """Remove the triggers and schema bridge with all its data.

    Says what would be lost, and asks.
    """
    settings = read_settings()
    with database_session(settings) as connection:
        # Ask before taking the lock: the answer may take longer than other installers wait.
        if is_installed(connection) and not yes:
            say(f"uninstall deletes {_loss(connection)}")
            if not dry_run:
                ask(f"Remove pgbridge from database {connection.info.dbname}?")
        with nullcontext() if dry_run else install_lock(connection):
            steps = plan_removal(connection)
            if not steps:
                say("pgbridge is not installed in this database")
                return
            if dry_run:
                _show_script(steps)
                return
            timeout = settings.lock_timeout_seconds
            apply_steps(connection, steps, lock_timeout_seconds=timeout, report=say)
        if left := rights.existing_roles(fetch(connection, "rights")):
            say(
                f"kept the roles {' and '.join(left)}, which other databases of this server may "
                f"use; if none does, run: drop role {', '.join(left)}"
            )


def _show_script(steps: Sequence[Step]) -> None:
    """Print the SQL of a dry run."""
    script = script_of(steps) or "-- nothing to do"
    show_text(script)
    if visible(script, keep="\n\t") != script:
        say("note: the SQL has invisible characters; \\u… above stands for them")


def _ask_to_remove(rules: Sequence[str]) -> None:
    """Ask before ``init`` removes rules, perhaps because it reads the wrong configuration."""
    say(f"init would stop capturing {', '.join(rules)} (rules from: {config_source()})")
    ask(f"Remove {_count(len(rules), 'rule')}?")


def _report(planned: Plan) -> None:
    for remark in planned.remarks:
        say(f"note: {remark}")
    if rights.SERVICE in planned.missing_roles:
        say(
            f"note: role {rights.SERVICE} does not exist, so `pgbridge run` must connect as the "
            "owner of schema bridge; to create a role with only the necessary privileges, run: "
            "pgbridge init --create-roles"
        )
    say(planned.summary())


def _loss(connection: Connection) -> str:
    """Describe what ``uninstall`` deletes."""
    try:
        [found] = fetch(connection, "uninstall_loss")
    except psycopg.errors.UndefinedTable:
        return "schema bridge of an older version, with all its data"
    return (
        f"{_count(found['trigger_count'], 'trigger')} and schema bridge, with "
        f"{_count(found['outbox_count'], 'event')} waiting in the outbox, "
        f"{_count(found['pending_count'], 'pending delivery', 'pending deliveries')}, "
        f"{_count(found['webhook_count'], 'webhook')}, "
        f"{_count(found['token_count'], 'token')} and all logs"
    )


def _count(count: int, one: str, many: str = "") -> str:
    if count > MOST_COUNTED:
        return f"more than {MOST_COUNTED:,} {many or one + 's'}"
    return f"{count} {one if count == 1 else many or one + 's'}"
