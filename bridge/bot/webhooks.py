"""Imports the webhooks of the bot's own table ``public.webhooks``, which is only read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from psycopg import sql
from psycopg.rows import dict_row

from bridge.access.vault import Vault
from bridge.database import sessions
from bridge.database.queries import SessionQueries, run_blocking
from bridge.webhooks.errors import InvalidInputError, WebhookError
from bridge.webhooks.model import NewWebhook
from bridge.webhooks.operations import UrlRefusal, Webhooks, validated

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
    #: Why it was refused; None: it was not.
    refusal: str | None = None
    is_present: bool = False
    #: The new webhook's id; None: it was not created.
    webhook_id: int | None = None
    warnings: Sequence[str] = ()


def import_webhooks(
    connection: sessions.Connection,
    vault: Vault,
    url_refusal: UrlRefusal | None = None,
    *,
    dry_run: bool,
    most: int,
) -> list[Imported]:
    """Copy the bot's active webhooks, with the checks of REST.

    One that these refuse does not stop the others. Those whose URL and event type exist already
    are left out.

    Args:
        url_refusal: as of ``Webhooks``, but works without an event loop.
        dry_run: check, but create nothing.
        most: how many webhooks there may be.

    Raises:
        WebhookError: there is no such table, it lacks a required column, or it belongs to a role
            that has fewer rights than the owner of schema bridge; or there are too many webhooks.
            Nothing was copied.
    """
    webhooks = Webhooks(SessionQueries(connection), vault, url_refusal, most=most)
    results: list[Imported] = []
    with connection.transaction():
        rows = sessions.fetch(connection, "known_webhooks")
        known = {(row["url"], row["event_type"]) for row in rows}
        for row in _own_webhooks(connection):
            name, url, event_type = (str(row[column]) for column in REQUIRED_COLUMNS)
            result = partial(Imported, name, url, event_type)
            if (url, event_type) in known:
                results.append(result(is_present=True))
                continue
            try:
                wanted = validated(NewWebhook, row)
                if dry_run:
                    results.append(result(**run_blocking(webhooks.check(wanted))))
                else:
                    with connection.transaction():  # a savepoint: an error undoes only this one
                        created = run_blocking(webhooks.create(wanted))
                    results.append(result(webhook_id=created.id, warnings=created.warnings))
                known.add((url, event_type))
            except InvalidInputError as error:
                results.append(result(refusal=str(error)))
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
