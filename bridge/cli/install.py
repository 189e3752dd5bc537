"""``pgbridge init`` and ``pgbridge uninstall``."""

import sys
from contextlib import nullcontext
from typing import Annotated

import typer

from bridge.capture.apply import apply_steps, install_lock
from bridge.capture.plan import plan_install, plan_removal
from bridge.cli.context import database_session, read_rules, read_settings
from bridge.database import rights
from bridge.database.sessions import fetch
from bridge.terminal.output import say, show_text
from bridge.terminal.visible import visible


def init(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the SQL without running it.")
    ] = False,
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
) -> None:
    """Install or update schema bridge and its triggers."""
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
            script = planned.script() or "-- nothing to do"
            show_text(script)
            if visible(script, keep="\n\t") != script:
                say("note: the SQL has invisible characters; \\u… above stands for them")
        else:
            apply_steps(connection, planned.steps, lock_timeout_seconds=timeout, report=say)
    for remark in planned.remarks:
        say(f"note: {remark}")
    if rights.SERVICE in planned.missing_roles:
        say(
            f"note: role {rights.SERVICE} does not exist, so `pgbridge run` must connect as the "
            "owner of schema bridge; to create a role with only the necessary privileges, run: "
            "pgbridge init --create-roles"
        )
    say(planned.summary())


def uninstall(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove the triggers and schema bridge with all its data."""
    settings = read_settings()
    with database_session(settings) as connection, install_lock(connection):
        steps = plan_removal(connection)
        if not steps:
            say("pgbridge is not installed in this database")
            return
        if not yes and sys.stdin.isatty():
            typer.confirm(
                "Drop schema bridge with all its events, webhooks and deliveries?", abort=True
            )
        timeout = settings.lock_timeout_seconds
        apply_steps(connection, steps, lock_timeout_seconds=timeout, report=say)
        if left := rights.existing_roles(fetch(connection, "rights")):
            say(
                f"kept the roles {' and '.join(left)}, which other databases of this server may "
                f"use; if none does, run: drop role {', '.join(left)}"
            )
