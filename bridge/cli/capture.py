"""``pgbridge capture``: pause and resume rules."""

from typing import Annotated

import typer

from bridge.capture.apply import install_lock, set_paused
from bridge.cli.context import database_session, read_settings
from bridge.terminal.output import say

capture_app = typer.Typer(
    help="Pause and resume the capture of events.", no_args_is_help=True, rich_markup_mode=None
)

RuleName = Annotated[
    str | None, typer.Argument(metavar="RULE", help="The rule's event type. Default: every rule.")
]


@capture_app.command()
def pause(rule: RuleName = None) -> None:
    """Stop capturing events, for example while a backup is restored.

    Changes made while paused are never captured.
    """
    with database_session(read_settings()) as connection, install_lock(connection):
        paused = set_paused(connection, rule, paused=True)
    say(f"paused: {', '.join(paused) or 'nothing; already paused'}")


@capture_app.command()
def resume(rule: RuleName = None) -> None:
    """Resume capturing events."""
    with database_session(read_settings()) as connection, install_lock(connection):
        resumed = set_paused(connection, rule, paused=False)
    say(f"resumed: {', '.join(resumed) or 'nothing; none was paused'}")
