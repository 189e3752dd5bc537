"""Dead letters: list, show, retry, drop."""

from typing import Annotated

from fastapi import Depends, Path

from bridge.access.scopes import WEBHOOKS_READ, WEBHOOKS_WRITE
from bridge.web.api.auth import guarded_router
from bridge.web.api.fields import BeforeId, Limit, RowId
from bridge.web.api.parts import InDatabase
from bridge.web.api.refusals import CANNOT_BE_RETRIED, NO_DEAD_LETTER
from bridge.webhooks.dead_letters import DeadLetter, DeadLetterList, DeadLetters

reading = guarded_router(WEBHOOKS_READ, "dead letters")
writing = guarded_router(WEBHOOKS_WRITE, "dead letters")
ROUTERS = (reading, writing)


async def _dead_letters(database: InDatabase) -> DeadLetters:
    return DeadLetters(database)


InDeadLetters = Annotated[DeadLetters, Depends(_dead_letters)]
DeadLetterId = Annotated[RowId, Path(description="The dead letter's id.")]


@reading.get("/dead-letters", summary="List dead letters")
async def list_dead_letters(
    letters: InDeadLetters, limit: Limit = 50, before_id: BeforeId = None
) -> DeadLetterList:
    """List the events and deliveries that the database could not process, newest first.

    Payloads of a page have at most 256 KiB together; the others are omitted.
    """
    return await letters.list(limit, before_id)


@reading.get(
    "/dead-letters/{dead_letter_id}", responses=NO_DEAD_LETTER, summary="Show a dead letter"
)
async def get_dead_letter(letters: InDeadLetters, dead_letter_id: DeadLetterId) -> DeadLetter:
    """One dead letter."""
    return await letters.get(dead_letter_id)


@writing.post(
    "/dead-letters/{dead_letter_id}/retry",
    status_code=204,
    responses={**NO_DEAD_LETTER, **CANNOT_BE_RETRIED},
    summary="Retry a dead letter",
)
async def retry_dead_letter(letters: InDeadLetters, dead_letter_id: DeadLetterId) -> None:
    """Put it back where it came from: an event into the outbox, a delivery into the queue.

    An event keeps its type and time. If it fails again, it becomes a new dead letter.
    """
    await letters.retry(dead_letter_id)


@writing.delete(
    "/dead-letters/{dead_letter_id}",
    status_code=204,
    responses=NO_DEAD_LETTER,
    summary="Drop a dead letter",
)
async def drop_dead_letter(letters: InDeadLetters, dead_letter_id: DeadLetterId) -> None:
    """Delete a dead letter. It cannot be retried afterwards."""
    await letters.drop(dead_letter_id)
