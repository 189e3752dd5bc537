"""Prints everything that the commands print. No other module prints."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from bridge.terminal.visible import visible

# Rich ends lines, and our numbers have a narrow space.
_KEPT = "\n\u202f"


def say(line: str) -> None:
    """Print a line for people on standard error."""
    typer.echo(visible(line), err=True)


def say_text(text: str) -> None:
    """Print several lines on standard error, such as the end of a log."""
    typer.echo(visible(text, keep="\n"), err=True)


def show(line: object) -> None:
    """Print a line on standard output."""
    typer.echo(visible(str(line)))


def show_text(text: str) -> None:
    """Print several lines on standard output. Tabs stay; they only move forward."""
    typer.echo(visible(text.replace("\r\n", "\n"), keep="\n\t"))


def show_json(value: Any) -> None:
    """Print a value as JSON on one line, in ASCII."""
    typer.echo(json.dumps(value))


class Terminal(Console):
    """A console that makes every text visible, and prints markup as it is.

    Only rich's own styles, in segments without text, become escape sequences.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text as it is printed, so that it is measured correctly."""
        return super().render_str(visible(text, keep=_KEPT), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render a renderable; the texts of all renderables pass here."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(visible(segment.text, keep=_KEPT), segment.style)


def show_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on standard output; long cells are wrapped, not cut off."""
    columns = [Column(header, overflow="fold") for header in headers]
    table = Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for row in rows:
        table.add_row(*(visible(str(cell)) for cell in row))
    Terminal().print(table)
