"""Print what commands say: notes and errors on standard error, tables on standard output."""

from typing import NoReturn

import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table

#: Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
FAILED = 1
MISUSED = 2


def say(line: str) -> None:
    """Print a line for people on standard error."""
    typer.echo(line, err=True)


def fail(line: str, code: int = FAILED) -> NoReturn:
    """Print an error in one line and exit."""
    say(f"pgbridge: {line}")
    raise SystemExit(code)


def plain_console() -> Console:
    """Return a console that prints text as it is, without highlighting or markup."""
    return Console(highlight=False, markup=False, emoji=False)


def table(*headers: str) -> Table:
    """Return a table that wraps long cells instead of cutting them off."""
    columns = [Column(header, overflow="fold") for header in headers]
    return Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
