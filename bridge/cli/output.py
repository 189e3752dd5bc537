"""Exit codes, errors that end a command, and the question before one that cannot be undone."""

import sys
from typing import Annotated, NoReturn

import typer

from bridge.terminal.output import say
from bridge.terminal.visible import visible

#: Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
FAILED = 1
MISUSED = 2

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


def fail(line: str, code: int = FAILED) -> NoReturn:
    """Print an error in one line and exit."""
    say(f"pgbridge: {line}")
    raise SystemExit(code)


def ask(question: str) -> None:
    """Continue only if the person at the terminal agrees; otherwise exit with code 1.

    Without a terminal, exit with code 2. Commands skip the question if they are given ``--yes``.
    """
    if not sys.stdin.isatty():
        fail("standard input is not a terminal; pass --yes", MISUSED)
    typer.confirm(visible(question), abort=True, err=True)
