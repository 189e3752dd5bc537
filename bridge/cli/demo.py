"""``pgbridge demo``."""

from typing import Annotated

import typer


def demo(
    seconds: Annotated[
        float | None,
        typer.Option(
            min=1.0, help="Stop after this time and print the totals. Default: until Ctrl-C."
        ),
    ] = None,
) -> None:
    """Run PostgreSQL, a simulated bot, a receiver and the bridge."""
    from bridge.demo.run import run_demo

    raise typer.Exit(run_demo(seconds))
