"""Webhooks from the command line: made, listed, switched, redelivered to, and taken over.

Every command imports this, and most send nothing and check no field of a webhook: what it takes to
do that is imported where it is done. Else it would be half of the time that a command takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from pydantic import ValidationError

from bridge.access.vault import Vault
from bridge.assets import query
from bridge.delivery.addresses import AddressPolicy

if TYPE_CHECKING:
    from bridge.delivery.trial import Trial
    from bridge.web.api.schemas import NewWebhook, Redelivery

Connection = psycopg.Connection[tuple[Any, ...]]

#: The columns of the bot's own table that are copied, and those it cannot be without. The others,
#: and ``is_active``, came and went with its releases.
IMPORTED_COLUMNS: Final = ("name", "url", "event_type", "secret", "description")
NEEDED_COLUMNS: Final = frozenset(["name", "url", "event_type"])


class WebhookError(Exception):
    """It cannot be done. The message says why and what to do."""


class InvalidWebhookError(WebhookError):
    """What was given is wrong. The message names the field."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one of the bot's own webhooks."""

    name: str
    url: str
    event_type: str
    #: Its id here; None: it was not copied.
    webhook_id: int | None = None
    #: Why it was not copied; None: it was, or would have been.
    skipped: str | None = None


def checked(**fields: object) -> NewWebhook:
    """Return a webhook as the API would take it.

    Raises:
        InvalidWebhookError: the API would not.
    """
    from bridge.web.api.schemas import NewWebhook

    with _one_line():
        return NewWebhook.model_validate(fields)


def create_webhook(connection: Connection, vault: Vault, webhook: NewWebhook) -> int:
    """Add a webhook, its secret sealed by the vault, and return its id.

    Raises:
        InvalidWebhookError: its filter is no jsonpath.
    """
    try:
        rows = _fetch(
            connection,
            "create_webhook",
            webhook.name,
            webhook.url,
            webhook.event_type,
            None if webhook.secret is None else vault.seal(webhook.secret),
            webhook.description,
            webhook.is_active,
            webhook.timeout_seconds,
            webhook.max_concurrency,
            webhook.filter,
            webhook.rate_per_second,
            webhook.ordered,
            webhook.retry_schedule,
        )
    except psycopg.errors.CheckViolation as error:
        from bridge.web.api.fields import FILTER_REFUSALS

        refusal = FILTER_REFUSALS.get(error.diag.constraint_name or "")
        if refusal is None:
            raise
        raise InvalidWebhookError(f"filter: {refusal}") from None
    except (psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError) as error:
        if webhook.filter is None or _is_missing_schema(error):
            raise
        raise InvalidWebhookError(
            f"filter: must be a jsonpath: {error.diag.message_primary}"
        ) from None
    return int(rows[0]["id"])


def webhook_overview(connection: Connection) -> list[dict[str, Any]]:
    """Return for every webhook: id, name, url, event_type, state, pending, success_rate_hour."""
    return _fetch(connection, "webhook_overview")


def switch_webhook(connection: Connection, webhook_id: int, *, on: bool) -> None:
    """Switch a webhook on or off. One that is off gets no new deliveries.

    Raises:
        WebhookError: there is none with this id.
    """
    if not _fetch(connection, "update_webhook", webhook_id, json.dumps({"is_active": on})):
        raise WebhookError(f"there is no webhook {webhook_id}; see: pgbridge webhooks list")


def try_webhook(
    connection: Connection, vault: Vault, policy: AddressPolicy, webhook_id: int
) -> Trial:
    """Send a webhook a test from here, and return what came of it.

    Raises:
        WebhookError: there is none with this id.
    """
    import trio

    from bridge.delivery.resolve import resolve
    from bridge.delivery.transport import Transport
    from bridge.delivery.trial import send_trial

    rows = _fetch(connection, "webhook_to_try", webhook_id)
    if not rows:
        raise WebhookError(f"there is no webhook {webhook_id}; see: pgbridge webhooks list")

    async def send() -> Trial:
        with Transport(partial(resolve, policy=policy), max_idle=0) as transport:
            return await send_trial(transport, vault, rows[0])

    return trio.run(send)


def pause_webhook(connection: Connection, webhook_id: int) -> None:
    """Have a webhook's deliveries wait, new ones included.

    Raises:
        WebhookError: there is none with this id.
    """
    with _refusals():
        _fetch(connection, "pause_webhook", webhook_id)


def resume_webhook(connection: Connection, webhook_id: int) -> None:
    """Have a webhook deliver again, whatever it was that kept it.

    Raises:
        WebhookError: there is none with this id.
    """
    with _refusals():
        _fetch(connection, "resume_webhook", webhook_id)


def checked_range(**fields: object) -> Redelivery:
    """Return a range of time to redeliver as the API would take it.

    Raises:
        InvalidWebhookError: the API would not.
    """
    from bridge.web.api.schemas import Redelivery

    with _one_line():
        return Redelivery.model_validate(
            {name: value for name, value in fields.items() if value is not None}
        )


def redeliver_failed(
    connection: Connection, webhook_id: int, chosen: Redelivery, *, dry_run: bool
) -> int:
    """Send again what a webhook failed to take, or count it; return how many.

    Raises:
        WebhookError: there is no webhook with this id.
    """
    with _refusals():
        [row] = _fetch(
            connection,
            "redeliver_failed",
            webhook_id,
            chosen.since,
            chosen.until,
            dry_run,
            chosen.per_second,
        )
    return int(row["count"])


def import_webhooks(connection: Connection, vault: Vault, *, dry_run: bool) -> list[Imported]:
    """Copy the active webhooks of the bot's own ``public.webhooks``; all of them or none.

    That table is only read. A webhook of the same URL and event type that is here already is
    skipped, and so is one that the API would not take.

    Raises:
        WebhookError: there is no such table, or it has other columns.
    """
    results: list[Imported] = []
    with connection.transaction():
        known = {(row["url"], row["event_type"]) for row in _fetch(connection, "known_webhooks")}
        for row in _own_webhooks(connection):
            result = Imported(str(row["name"]), str(row["url"]), str(row["event_type"]))
            try:
                webhook = checked(**row)
            except InvalidWebhookError as error:
                result = replace(result, skipped=str(error))
            else:
                if (webhook.url, webhook.event_type) in known:
                    result = replace(result, skipped="it is here already")
                elif not dry_run:
                    result = replace(result, webhook_id=create_webhook(connection, vault, webhook))
                known.add((webhook.url, webhook.event_type))
            results.append(result)
    return results


def _own_webhooks(connection: Connection) -> list[dict[str, Any]]:
    """Return the active rows of the bot's own table, with the columns that it has."""
    rows = connection.execute(
        "select column_name::text from information_schema.columns"
        " where table_schema = 'public' and table_name = 'webhooks'"
    )
    there = {name for (name,) in rows}
    if not there:
        raise WebhookError("there is no table public.webhooks in this database to import from")
    if missing := sorted(NEEDED_COLUMNS - there):
        raise WebhookError(
            f"public.webhooks has no column {missing[0]}; it is not the bot's, or of a release "
            "that this pgbridge does not know: use pgbridge webhooks create"
        )
    wanted = [name for name in IMPORTED_COLUMNS if name in there]
    statement = sql.SQL("select {} from public.webhooks{}{}").format(
        sql.SQL(", ").join(map(sql.Identifier, wanted)),
        sql.SQL(" where is_active" if "is_active" in there else ""),
        sql.SQL(" order by id" if "id" in there else ""),
    )
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement).fetchall()


def _fetch(connection: Connection, name: str, *values: object) -> list[dict[str, Any]]:
    """Run the named query of ``sql/queries`` as the daemon does, with $1, $2, …"""
    with psycopg.RawCursor(connection, row_factory=dict_row) as cursor:
        return cursor.execute(query(name).encode(), cast(Sequence[Any], values)).fetchall()


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what a function of the schema does not find into the error that says so."""
    try:
        yield
    except psycopg.errors.NoDataFound as error:
        raise WebhookError(f"{error.diag.message_primary}; see: pgbridge webhooks list") from None


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what is wrong with a model's fields into a line on the first of them."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidWebhookError(f"{first['loc'][0]}: {message}") from None


def _is_missing_schema(error: psycopg.Error) -> bool:
    return isinstance(
        error,
        psycopg.errors.UndefinedTable
        | psycopg.errors.UndefinedColumn
        | psycopg.errors.InvalidSchemaName
        | psycopg.errors.InsufficientPrivilege,
    )
