"""The ``pgbridge`` command and its subcommands."""

from traceback import format_exc
from typing import Annotated

import typer

from bridge import assets
from bridge.cli.capture import capture_app
from bridge.cli.dead_letters import dead_letters_app
from bridge.cli.demo import demo
from bridge.cli.inspect import doctor, status
from bridge.cli.install import init, uninstall
from bridge.cli.output import FAILED
from bridge.cli.run import run, worker
from bridge.cli.tail import tail
from bridge.cli.tokens import token_app
from bridge.cli.webhooks import webhooks_app
from bridge.terminal.output import say_text, show

app = typer.Typer(
    help="Real-time events and signed webhooks from an unchanged PostgreSQL application.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (init, uninstall, run, doctor, status, tail, demo):
    app.command()(command)
app.command(hidden=True)(worker)
app.add_typer(capture_app, name="capture")
app.add_typer(token_app, name="token")
app.add_typer(webhooks_app, name="webhooks")
app.add_typer(dead_letters_app, name="dead-letters")


def main() -> None:
    """Run the command line."""
    try:
        app(prog_name="pgbridge")
    except Exception:  # a bug: Python would print the exception's text as it is
        say_text(format_exc())
        raise SystemExit(FAILED) from None


def _print_version(wanted: bool) -> None:
    if wanted:
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
