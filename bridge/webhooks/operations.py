"""The operations on webhooks and their deliveries, for REST, the console and the command line."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from bridge.access.vault import Vault, new_secret
from bridge.database.queries import Queries, Refusal, refusal_of
from bridge.settings import MAX_WEBHOOKS, first_problem
from bridge.webhooks.errors import (
    InvalidInputError,
    NotFoundError,
    TooManyError,
    WebhookError,
    What,
)
from bridge.webhooks.event_types import UnmatchedType, unmatched_type
from bridge.webhooks.fields import MAX_BIGINT
from bridge.webhooks.model import (
    Attempt,
    CreatedWebhook,
    Delivery,
    DeliveryDetail,
    DeliveryList,
    NewWebhook,
    Redelivery,
    RedeliveryCount,
    RedeliveryProgress,
    RotatedSecret,
    SavedWebhook,
    Webhook,
    WebhookChanges,
    WebhookHealth,
    WebhookList,
    WebhookStats,
)
from bridge.webhooks.refusals import filter_errors, input_errors

if TYPE_CHECKING:
    from bridge.webhooks.trial import Trial

Row = Mapping[str, Any]
Model = TypeVar("Model", bound=BaseModel)
#: Returns why no delivery may go to a URL; None if one may.
UrlRefusal = Callable[[str], Awaitable[str | None]]

#: How often to try a deletion that deadlocks with a courier.
DELETE_TRIES: Final = 3

#: Most bytes of payload in a response that is parsed and built in memory.
PAYLOAD_BYTES: Final = 256 * 1024
#: Attempts in a response. A delivery that is redelivered over and over has more.
MOST_ATTEMPTS: Final = 200

_DEADLOCK = "40P01"
#: A token that may change the URL must not get requests signed with a secret it does not know.
_NEW_ORIGIN: Final = "must be new, or null, if the scheme, host or port of the URL changes"


def validated(model: type[Model], fields: Mapping[str, object]) -> Model:
    """Return a model made from these fields.

    Raises:
        InvalidInputError: a field is invalid; the error names the first one.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first, problem = first_problem(error)
        raise InvalidInputError(str(first["loc"][0]), problem) from None


class Webhooks:
    """The operations on webhooks.

    Every method that takes a webhook's id raises ``NotFoundError`` if there is no such webhook.

    Args:
        queries: runs the queries, on behalf of whoever asked for the operation.
        vault: encrypts secrets.
        url_refusal: checks the URLs of new and changed webhooks; None: any URL is accepted.
        most: how many webhooks there may be. Concurrent creations may exceed it, each by one.
    """

    def __init__(
        self,
        queries: Queries,
        vault: Vault,
        url_refusal: UrlRefusal | None = None,
        *,
        most: int = MAX_WEBHOOKS,
    ) -> None:
        self._queries = queries
        self._vault = vault
        self._url_refusal = url_refusal
        self._most = most

    async def list(
        self,
        *,
        event_type: str | None = None,
        is_active: bool | None = None,
        limit: int,
        offset: int = 0,
    ) -> WebhookList:
        """Return a page of webhooks, newest first."""
        rows = await self._queries.fetch(
            "list_webhooks", None, event_type, is_active, limit, offset
        )
        return WebhookList(
            items=[Webhook(**row) for row in rows if row["id"] is not None],
            total=rows[0]["total"],
            limit=limit,
            offset=offset,
        )

    async def overview(self) -> Sequence[Row]:
        """Return id, name, url, event_type, state, pending, success_rate_hour of every webhook."""
        return await self._queries.fetch("webhook_overview")

    async def stats(self) -> WebhookStats:
        """Count webhooks and deliveries."""
        (row,) = await self._queries.fetch("webhook_stats")
        total, successful = row["total_deliveries"], row["successful_deliveries"]
        rate = round(100 * successful / total, 2) if total else 0.0
        return WebhookStats(**row, success_rate=rate)

    async def get(self, webhook_id: int) -> Webhook:
        """Return a webhook."""
        row = await self._one("list_webhooks", webhook_id, None, None, 1, 0)
        if row["id"] is None:
            raise NotFoundError("webhook", webhook_id)
        return Webhook(**row)

    async def health(self, webhook_id: int) -> WebhookHealth:
        """Return a webhook's state, backlog and recent attempts."""
        return WebhookHealth(**await self._one("webhook_health", webhook_id))

    async def create(self, webhook: NewWebhook) -> CreatedWebhook:
        """Create a webhook, and its secret if that is to be generated.

        Raises:
            InvalidInputError: the URL or the filter is not allowed.
            TooManyError: there are too many webhooks.
        """
        warnings = await self.check(webhook)
        secret = new_secret() if webhook.generate_secret else webhook.secret
        with input_errors(webhook.model_dump()):
            rows = await self._queries.fetch(
                "create_webhook",
                webhook.name,
                webhook.url,
                webhook.event_type,
                None if secret is None else self._vault.seal(secret),
                webhook.description,
                webhook.is_active,
                webhook.timeout_seconds,
                webhook.max_concurrency,
                webhook.filter,
                webhook.rate_per_second,
                webhook.ordered,
                webhook.retry_schedule,
                self._most,
            )
        if not rows:
            raise TooManyError(self._most)
        shown: dict[str, Any] = {"secret": secret} if webhook.generate_secret else {}
        return CreatedWebhook(**rows[0], **shown, **warnings)

    async def check(self, webhook: NewWebhook) -> dict[str, Any]:
        """Return the field ``warnings`` of the webhook if it were created; raises as `create`."""
        await self._check_url(webhook.url)
        return await self._warnings(webhook.event_type)

    async def update(self, webhook_id: int, changes: WebhookChanges) -> SavedWebhook:
        """Change a webhook. Activating it clears ``disabled_reason`` and wakes the couriers.

        Raises:
            InvalidInputError: the URL or the filter is not allowed, or a URL of another origin
                would be sent requests signed with the present secret.
        """
        columns = changes.columns()
        if changes.url is not None and webhook_id > 0:
            # Also if it is unchanged: nothing could be delivered to it.
            await self._check_url(changes.url)
        seen_url = None
        if changes.url is not None and "secret" not in columns:
            from bridge.delivery.url import same_origin  # httpx: commands rarely change a URL

            seen_url = (await self.get(webhook_id)).url
            if not same_origin(seen_url, changes.url):
                seen_url = ""  # no webhook's URL
        warnings = await self._warnings(changes.event_type)
        if changes.secret:
            columns["secret"] = self._vault.seal(changes.secret)
        try:
            with input_errors(columns):
                # Not escaped: the error then names the character that the encoding lacks.
                changed = json.dumps(columns, ensure_ascii=False)
                row = await self._one("update_webhook", webhook_id, changed, seen_url)
        except NotFoundError:
            await self.get(webhook_id)
            raise InvalidInputError("secret", _NEW_ORIGIN, kind="secret_required") from None
        return SavedWebhook(**row, **warnings)

    async def unmatched_type(self, event_type: str) -> UnmatchedType | None:
        """Return what is wrong with an event type that no events match; None if some may."""
        return await unmatched_type(self._queries, event_type)

    async def rotate_secret(self, webhook_id: int, given: str | None = None) -> RotatedSecret:
        """Replace a webhook's secret. For a day, requests are signed with the old one as well.

        Args:
            given: the new secret; None: generate one.
        """
        secret = given or new_secret()
        row = await self._one("rotate_secret", webhook_id, self._vault.seal(secret))
        return RotatedSecret(
            secret=None if given else secret,
            previous_secret_expires_at=row["previous_secret_expires_at"],
        )

    async def pause(self, webhook_id: int) -> None:
        """Hold back a webhook's deliveries, including new ones."""
        await self._one("pause_webhook", webhook_id)

    async def resume(self, webhook_id: int) -> None:
        """Deliver again, whether the webhook was paused, failing or disabled.

        Raises:
            InvalidInputError: its filter is of an earlier version, and no longer allowed.
        """
        await self._one("resume_webhook", webhook_id)

    async def delete(self, webhook_id: int) -> None:
        """Delete a webhook and its pending deliveries, a batch at a time.

        If this fails midway, the webhook is inactive and some of its deliveries are gone.
        """
        tries_left = DELETE_TRIES
        while True:
            try:
                row = await self._one("delete_webhook", webhook_id)
            except Exception as error:
                # A courier has locked one of its deliveries and waits for the webhook.
                refusal = refusal_of(error)
                tries_left -= 1
                if refusal is None or refusal.sqlstate != _DEADLOCK or not tries_left:
                    raise
            else:
                if row["is_deleted"]:
                    return

    async def send_test(self, webhook_id: int, send: Callable[[Row], Awaitable[Trial]]) -> Trial:
        """Send a webhook a test request now, whatever its state.

        Args:
            send: gets a row of ``webhook_to_try``.
        """
        return await send(await self._one("webhook_to_try", webhook_id))

    async def redeliver_failed(self, webhook_id: int, chosen: Redelivery) -> RedeliveryCount:
        """Send failed deliveries again or, in a dry run, count them.

        Raises:
            WebhookError: another redelivery of the webhook is running.
        """
        row = await self._one(
            "redeliver_failed",
            webhook_id,
            chosen.since,
            chosen.until,
            chosen.dry_run,
            chosen.per_second,
        )
        return RedeliveryCount(count=row["count"], dry_run=chosen.dry_run)

    async def redelivery(self, webhook_id: int) -> RedeliveryProgress:
        """Return the progress of a webhook's last redelivery.

        Raises:
            NotFoundError: there was none.
        """
        return RedeliveryProgress(
            **await self._one("redelivery", webhook_id, what="redelivery of webhook")
        )

    async def cancel_redelivery(self, webhook_id: int) -> RedeliveryProgress:
        """Put no more deliveries of a webhook's redelivery back into the queue.

        Raises:
            NotFoundError: there was none.
        """
        await self._one("cancel_redelivery", webhook_id)
        return await self.redelivery(webhook_id)

    async def deliveries(
        self,
        webhook_id: int,
        *,
        status: str | None = None,
        limit: int,
        offset: int = 0,
        before_id: int | None = None,
        payload_bytes: int = PAYLOAD_BYTES,
    ) -> DeliveryList:
        """Return a page of a webhook's deliveries, newest first.

        Args:
            before_id: only older ones than this; deep pages are then as fast as the first.
            payload_bytes: total size of payloads; those that do not fit are omitted.
        """
        reach = min(offset + limit + 1, MAX_BIGINT)
        rows = await self._queries.fetch(
            "list_deliveries", webhook_id, status, reach, offset, limit, before_id, payload_bytes
        )
        if not rows:
            raise NotFoundError("webhook", webhook_id)
        return DeliveryList(
            total=rows[0]["total"],
            items=[Delivery(**row) for row in rows if row["id"] is not None],
            limit=limit,
            offset=offset,
            next_before_id=rows[0]["next_before_id"],
        )

    async def delivery(self, delivery_id: int) -> DeliveryDetail:
        """Return a delivery with its latest attempts. A payload of megabytes is omitted.

        Raises:
            NotFoundError: there is no such delivery.
        """
        row = await self._one("get_delivery", delivery_id, PAYLOAD_BYTES, what="delivery")
        attempts = await self._queries.fetch("list_attempts", delivery_id, MOST_ATTEMPTS)
        return DeliveryDetail(**row, attempts=[Attempt(**attempt) for attempt in attempts])

    async def redeliver(self, delivery_id: int) -> bool:
        """Send a delivery again, at once. Return False if it was pending anyway.

        Raises:
            NotFoundError: there is no such delivery.
            WebhookError: its webhook is deleted, or its event has expired.
        """
        row = await self._one("redeliver", delivery_id, what="delivery")
        return bool(row["was_finished"])

    async def _warnings(self, event_type: str | None) -> dict[str, Any]:
        """Return the field ``warnings`` of the answer, if there are any.

        Call this before the change: if it failed afterwards, a new secret would be lost.
        """
        unmatched = None if event_type is None else await self.unmatched_type(event_type)
        return {} if unmatched is None else {"warnings": [str(unmatched)]}

    async def _check_url(self, url: str) -> None:
        if self._url_refusal and (refusal := await self._url_refusal(url)):
            raise InvalidInputError("url", refusal, kind="url_refused")

    async def _one(
        self,
        name: str,
        row_id: int,
        *values: object,
        what: What = "webhook",
    ) -> Row:
        """Return the first row of a query about one webhook or delivery.

        Raises:
            NotFoundError: there is no row.
            InvalidInputError: the webhook's filter is not allowed.
            WebhookError: a function of schema bridge reports a conflict.
        """
        try:
            with filter_errors():
                rows = await self._queries.fetch(name, row_id, *values)
        except Exception as error:
            match refusal_of(error):
                case Refusal("P0002"):  # no_data_found
                    raise NotFoundError(what, row_id) from None
                case Refusal("55000", message):  # object_not_in_prerequisite_state
                    raise WebhookError(message) from None
            raise
        if not rows:
            raise NotFoundError(what, row_id)
        return rows[0]
