"""Imports the webhooks of the bot's own table ``public.webhooks``, which is only read."""

from dataclasses import dataclass
from typing import Any, Final

from psycopg import sql
from psycopg.rows import dict_row

from bridge.access.vault import Vault
from bridge.database import sessions
from bridge.database.queries import SessionQueries, run_blocking
from bridge.webhooks.errors import InvalidInputError, WebhookError
from bridge.webhooks.model import NewWebhook
from bridge.webhooks.operations import Webhooks, validated

#: The columns that are copied, if the table has them: they changed with the bot's releases, and so
#: did ``is_active``.
IMPORTED_COLUMNS: Final = ("name", "url", "event_type", "secret", "description")
REQUIRED_COLUMNS: Final = ("name", "url", "event_type")


@dataclass(frozen=True, slots=True)
class Imported:
    """The result for one of the bot's webhooks."""

    name: str
    url: str
    event_type: str
    #: The new webhook's id; None: it was not created.
    webhook_id: int | None
    #: Why it was skipped; None: it was not.
    skipped: str | None


def import_webhooks(
    connection: sessions.Connection, vault: Vault, *, dry_run: bool, most: int
) -> list[Imported]:
    """Copy the bot's active webhooks; all of them or, if one fails, none.

    Invalid webhooks are skipped, and so are those whose URL and event type exist already.

    Args:
        most: how many webhooks there may be.

    Raises:
        WebhookError: there is no such table, it lacks a required column, or it belongs to a role
            that has fewer rights than the owner of schema bridge; or there are too many webhooks.
    """
    webhooks = Webhooks(SessionQueries(connection), vault, most=most)
    results: list[Imported] = []
    with connection.transaction():
        rows = sessions.fetch(connection, "known_webhooks")
        known = {(row["url"], row["event_type"]) for row in rows}
        for row in _own_webhooks(connection):
            webhook_id = skipped = None
            try:
                webhook = validated(NewWebhook, row)
            except InvalidInputError as error:
                skipped = str(error)
            else:
                if (webhook.url, webhook.event_type) in known:
                    skipped = "already present"
                elif not dry_run:
                    webhook_id = run_blocking(webhooks.create(webhook)).id
                known.add((webhook.url, webhook.event_type))
            name, url, event_type = (str(row[column]) for column in REQUIRED_COLUMNS)
            results.append(Imported(name, url, event_type, webhook_id, skipped))
    return results


def _own_webhooks(connection: sessions.Connection) -> list[dict[str, Any]]:
    """Return the active rows of the bot's table, with the columns that it has.

    Views, policies, indexes and casts of its owner would run with the rights of this session.
    """
    untrusted = sessions.fetch(
        connection, "untrusted_owners", tables=["public.webhooks"], view=None
    )
    if untrusted:
        raise WebhookError(
            f"{untrusted[0]['finding']}, whose code could run with the rights of this command; "
            "create these webhooks with pgbridge webhooks create"
        )
    rows = connection.execute(
        "select column_name::text from information_schema.columns"
        " where table_schema = 'public' and table_name = 'webhooks'"
    )
    present = {name for (name,) in rows}
    if not present:
        raise WebhookError("this database has no table public.webhooks to import from")
    if missing := sorted({*REQUIRED_COLUMNS} - present):
        raise WebhookError(
            f"public.webhooks has no column {missing[0]}; it is not the bot's table, or of a "
            "release that this pgbridge does not support: use pgbridge webhooks create"
        )
    wanted = [name for name in IMPORTED_COLUMNS if name in present]
    statement = sql.SQL("select {} from public.webhooks{}{}").format(
        sql.SQL(", ").join(map(sql.Identifier, wanted)),
        sql.SQL(" where is_active" if "is_active" in present else ""),
        sql.SQL(" order by id" if "id" in present else ""),
    )
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement).fetchall()
