"""The page of dead letters: list, retry, drop."""

from typing import Annotated, Final

from fastapi import Request
from fastapi.responses import Response
from pydantic import BeforeValidator

from bridge.access.scopes import WEBHOOKS_READ, WEBHOOKS_WRITE
from bridge.web.api.dead_letters import DeadLetterId, InDeadLetters
from bridge.web.api.fields import BeforeId
from bridge.web.console.guard import page_router
from bridge.web.console.rendering import page, redirect
from bridge.webhooks.fields import empty_is_none

#: Rows per page.
SHOWN: Final = 50

reading = page_router(WEBHOOKS_READ)
writing = page_router(WEBHOOKS_WRITE)
ROUTERS = (reading, writing)


@reading.get("/console/dead-letters")
async def dead_letters_page(
    request: Request,
    letters: InDeadLetters,
    before_id: Annotated[BeforeId, BeforeValidator(empty_is_none)] = None,
    done: str = "",
) -> Response:
    """List dead letters, newest first."""
    listed = await letters.list(SHOWN, before_id)
    return page(request, "dead_letters", listed=listed, is_first=before_id is None, done=done)


@writing.post("/console/dead-letters/{dead_letter_id}/retry")
async def retry_dead_letter(
    request: Request, letters: InDeadLetters, dead_letter_id: DeadLetterId
) -> Response:
    """Put a dead letter back where it came from."""
    await letters.retry(dead_letter_id)
    return redirect(request, "dead-letters", done="retried")


@writing.post("/console/dead-letters/{dead_letter_id}/drop")
async def drop_dead_letter(
    request: Request, letters: InDeadLetters, dead_letter_id: DeadLetterId
) -> Response:
    """Delete a dead letter."""
    await letters.drop(dead_letter_id)
    return redirect(request, "dead-letters", done="dropped")
