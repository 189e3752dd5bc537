"""Dead letters: what PostgreSQL could not process, for REST, the console and the command line."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, Field

from bridge.database.queries import Refusal, refusal_of
from bridge.events import readable_payload
from bridge.webhooks.errors import NotFoundError, WebhookError
from bridge.webhooks.fields import Id

if TYPE_CHECKING:
    from bridge.database.queries import Queries

#: Most bytes of payload on a page.
PAGE_BYTES: Final = 256 * 1024


def _parsed(payload: object) -> object:
    return readable_payload(payload) if isinstance(payload, str) else payload


class DeadLetter(BaseModel):
    """An event that could not be drained, or a delivery that could be neither queued nor logged."""

    id: Id
    event_type: str = Field(examples=["user.created"])
    webhook_id: Id | None = Field(description="The delivery's webhook; null for an event.")
    event_id: Id | None = Field(description="The delivery's event; null for an event.")
    captured_at: datetime = Field(description="When the event was captured.")
    recorded_at: datetime = Field(description="When it was set aside.")
    reason: str = Field(description="The database's error.", examples=["numeric field overflow"])
    payload: Annotated[Any, BeforeValidator(_parsed)] = Field(
        description="The event's payload; null for a delivery."
    )
    payload_omitted: bool = Field(
        description="Whether the payload is null because it is large or cannot be read."
    )


class DeadLetterList(BaseModel):
    """A page of dead letters, newest first."""

    items: list[DeadLetter]
    next_before_id: Id | None = Field(
        description="The `before_id` of the next page; null on the last page."
    )


class DeadLetters:
    """The operations on dead letters.

    Args:
        queries: runs the queries, on behalf of whoever asked for the operation.
    """

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def list(self, limit: int, before_id: int | None = None) -> DeadLetterList:
        """Return a page, newest first."""
        rows = await self._queries.fetch(
            "dead_letters_page", None, before_id, limit + 1, PAGE_BYTES
        )
        items = [DeadLetter(**row) for row in rows[:limit]]
        return DeadLetterList(
            items=items, next_before_id=items[-1].id if len(rows) > limit else None
        )

    async def get(self, dead_letter_id: int) -> DeadLetter:
        """Return a dead letter.

        Raises:
            NotFoundError: there is no such dead letter.
        """
        rows = await self._queries.fetch("dead_letters_page", dead_letter_id, None, 1, PAGE_BYTES)
        if not rows:
            raise NotFoundError("dead letter", dead_letter_id)
        return DeadLetter(**rows[0])

    async def retry(self, dead_letter_id: int) -> None:
        """Put an event back into the outbox, or a delivery into the queue.

        Raises:
            NotFoundError: there is no such dead letter.
            WebhookError: its webhook is deleted, or the database still rejects it.
        """
        await self._change("retry_dead_letter", dead_letter_id)

    async def drop(self, dead_letter_id: int) -> None:
        """Delete a dead letter.

        Raises:
            NotFoundError: there is no such dead letter.
        """
        await self._change("drop_dead_letter", dead_letter_id)

    async def _change(self, name: str, dead_letter_id: int) -> None:
        try:
            await self._queries.fetch(name, dead_letter_id)
        except Exception as error:
            match refusal_of(error):
                case Refusal("P0002"):  # no_data_found
                    raise NotFoundError("dead letter", dead_letter_id) from None
                case Refusal("55000", message):  # object_not_in_prerequisite_state
                    raise WebhookError(message) from None
            raise
