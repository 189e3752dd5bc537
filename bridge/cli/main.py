"""The ``pgbridge`` command and its subcommands."""

from traceback import format_exc
from typing import Annotated

import typer

from bridge.cli.lazy import Entry, group_of

COMMANDS = (
    Entry(
        "init",
        "bridge.cli.install:init",
        "Install or update schema bridge and its triggers.",
    ),
    Entry(
        "uninstall",
        "bridge.cli.install:uninstall",
        "Remove the triggers and schema bridge with all its data.",
    ),
    Entry(
        "run",
        "bridge.cli.run:run",
        "Relay events to WebSocket clients and webhooks until SIGTERM.",
    ),
    Entry("worker", "bridge.cli.run:worker", "", hidden=True),
    Entry(
        "doctor",
        "bridge.cli.inspect:doctor",
        "Check the installation and explain how to fix problems.",
    ),
    Entry("status", "bridge.cli.inspect:status", "Show backlogs, rates and running bridges."),
    Entry("tail", "bridge.cli.tail:tail", "Follow the event stream of a running bridge."),
    Entry(
        "demo",
        "bridge.cli.demo:demo",
        "Run PostgreSQL, a simulated bot, a receiver and the bridge.",
    ),
    Entry("capture", "bridge.cli.capture:capture_app", "Pause and resume the capture of events."),
    Entry("token", "bridge.cli.tokens:token_app", "Manage tokens for REST and WebSocket."),
    Entry("webhooks", "bridge.cli.webhooks:webhooks_app", "Manage webhooks and their deliveries."),
    Entry(
        "dead-letters",
        "bridge.cli.dead_letters:dead_letters_app",
        "Manage events and deliveries that PostgreSQL could not process.",
    ),
)

app = typer.Typer(
    cls=group_of(COMMANDS),
    help="Real-time events and signed webhooks from an unchanged PostgreSQL application.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line."""
    try:
        app(prog_name="pgbridge")
    except Exception:  # a bug: Python would print the exception's text as it is
        from bridge.cli.output import FAILED
        from bridge.terminal.output import say_text

        say_text(format_exc())
        raise SystemExit(FAILED) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        from bridge import assets
        from bridge.terminal.output import show

        show(f"pgbridge {assets.version()}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass
