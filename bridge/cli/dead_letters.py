"""``pgbridge dead-letters``: list, retry and drop what PostgreSQL could not process."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from bridge.cli.context import database_session, read_settings
from bridge.database.queries import SessionQueries, run_blocking
from bridge.terminal.output import say, show_json, show_table

if TYPE_CHECKING:
    from bridge.webhooks.dead_letters import DeadLetters

dead_letters_app = typer.Typer(
    help="Manage events and deliveries that PostgreSQL could not process.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

T = TypeVar("T")
DeadLetterId = Annotated[
    int,
    typer.Argument(min=1, max=2**63 - 1, metavar="ID", help="From `pgbridge dead-letters list`."),
]


@dead_letters_app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=200, help="Maximum number.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List the newest dead letters with their reasons."""
    page = _run(lambda letters: letters.list(limit))
    if as_json:
        show_json([each.model_dump(mode="json") for each in page.items])
        return
    headers = ("id", "event type", "webhook", "captured", "set aside", "reason")
    rows = [
        (
            each.id,
            each.event_type,
            each.webhook_id or "",
            f"{each.captured_at:%Y-%m-%d %H:%M:%S}",
            f"{each.recorded_at:%Y-%m-%d %H:%M:%S}",
            each.reason,
        )
        for each in page.items
    ]
    show_table(headers, rows)
    if page.next_before_id is not None:
        say(f"there are more than {limit}; see --limit")


@dead_letters_app.command()
def retry(dead_letter_id: DeadLetterId) -> None:
    """Put an event back into the outbox, or a delivery into the queue."""
    _run(lambda letters: letters.retry(dead_letter_id))
    say(f"dead letter {dead_letter_id} is retried")


@dead_letters_app.command()
def drop(dead_letter_id: DeadLetterId) -> None:
    """Delete a dead letter. It cannot be retried afterwards."""
    _run(lambda letters: letters.drop(dead_letter_id))
    say(f"dead letter {dead_letter_id} is dropped")


def _run(operation: Callable[[DeadLetters], Coroutine[Any, Any, T]]) -> T:
    """Run an operation in a database session."""
    from bridge.webhooks.dead_letters import DeadLetters

    with database_session(read_settings()) as connection:
        return run_blocking(operation(DeadLetters(SessionQueries(connection))))
