"""``pgbridge token``: create, list and revoke API tokens."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from bridge.access.scopes import EVENTS_READ, SCOPES, ScopeError, checked_scopes
from bridge.access.tokens import new_row, new_token, too_many
from bridge.cli.context import database_session, read_settings
from bridge.cli.output import MISUSED, fail
from bridge.database.sessions import fetch
from bridge.terminal.output import say, show, show_table

token_app = typer.Typer(
    help="Manage tokens for REST and WebSocket.", no_args_is_help=True, rich_markup_mode=None
)


@token_app.command()
def create(
    name: Annotated[str, typer.Option(help="What the token is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help=f"What it allows: {', '.join(SCOPES)}, or events:read:ticket.* for some event "
            "types. Repeat the option for several. Default: events:read."
        ),
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=36500, help="Days until it expires. Default: never.")
    ] = None,
) -> None:
    """Create a token and print it.

    Nothing else is printed to standard output. The token is not shown again.
    """
    if not (name.isprintable() and 1 <= len(name.strip()) <= 255):
        fail("--name must be 1 to 255 printable characters", MISUSED)
    try:
        scopes = checked_scopes(scope or [EVENTS_READ])
    except ScopeError as error:
        fail(str(error), MISUSED)
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    token = new_token()
    settings = read_settings()
    with database_session(settings) as connection:
        row = new_row(name, token, scopes, expires_at, settings.max_tokens)
        if not fetch(connection, "create_token", *row):
            fail(too_many(settings.max_tokens))
    show(token)


@token_app.command("list")
def list_() -> None:
    """List tokens by name and prefix."""
    headers = ("id", "name", "prefix", "scopes", "created", "expires", "last used", "state")
    with database_session(read_settings()) as connection:
        rows = fetch(connection, "list_tokens", None, None, 0)
    # A row without an id: there are no tokens.
    show_table(headers, [_cells(row) for row in reversed(rows) if row["id"] is not None])


@token_app.command()
def revoke(
    token_id: Annotated[
        int, typer.Argument(metavar="ID", help="From `pgbridge token list`.", show_default=False)
    ],
) -> None:
    """Revoke a token immediately and permanently."""
    with database_session(read_settings()) as connection:
        if not fetch(connection, "revoke_token", token_id):
            fail(f"no valid token has ID {token_id}; see: pgbridge token list")
    say(f"token {token_id} is revoked")


def _cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    moments = (row["created_at"], row["expires_at"], row["last_used_at"])
    return (
        row["id"],
        row["name"],
        f"{row['prefix']}…",
        " ".join(row["scopes"]),
        *("" if moment is None else f"{moment:%Y-%m-%d %H:%M}" for moment in moments),
        row["state"],
    )
