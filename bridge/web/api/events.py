"""The event log in pages, for clients that poll instead of using the stream."""

from typing import Annotated, Any

from fastapi import HTTPException, Query, Request, Response
from pydantic import BaseModel, Field

from bridge.access.scopes import EVENTS_READ
from bridge.access.tokens import Grant
from bridge.database.shares import Share
from bridge.events import narrowed, outside, readable_payload, timestamp
from bridge.live.selection import MOST_PATTERNS
from bridge.web.api.auth import guarded_router
from bridge.web.api.fields import EventId, Limit, Patterns
from bridge.web.api.large import LargePayload, Mark
from bridge.web.api.parts import InDatabase
from bridge.web.http.body import invalid
from bridge.webhooks.fields import MAX_BIGINT, Id

#: Events examined for one page. If few match the patterns, a page may be empty and still have a
#: `next_since`.
MOST_LOOKED_AT = 5_000
#: Payloads of a page, as stored (perhaps compressed). A page has at least one event.
PAGE_BYTES = 256 * 1024

reading = guarded_router(EVENTS_READ, "events")
ROUTERS = (reading,)


class LoggedEvent(BaseModel):
    """An event of the log, as the stream sends it."""

    id: Id
    type: str = Field(examples=["user.created"])
    payload: Any = Field(examples=[{"user_id": 7, "username": "ivan"}])
    timestamp: str = Field(
        description="When it was captured: UTC, with microseconds.",
        examples=["2026-01-15T10:30:00.123456Z"],
        json_schema_extra={"format": "date-time"},
    )


class EventList(BaseModel):
    """A page of the log, oldest first."""

    items: list[LoggedEvent]
    last_event_id: Id = Field(description="The newest event of the log, whatever its type.")
    next_since: Id | None = Field(
        description="The `since` of the next page; null if there are no more events yet."
    )
    available_from: Id | None = Field(
        description="The oldest event from which the log is complete; null if the log is empty."
    )


@reading.get("/events", response_model=EventList, summary="List events")
async def list_events(
    request: Request,
    database: InDatabase,
    since: Annotated[EventId, Query(description="Only events after this id.")] = 0,
    until: Annotated[
        EventId | None, Query(description="Only events up to and including this id.")
    ] = None,
    event_type: Patterns = "",
    limit: Limit = 50,
) -> EventList | Response:
    """List events in the order in which their transactions became visible.

    To follow the log, continue from `next_since`, or from `last_event_id` if that is null. A page
    may have fewer events than `limit`, or none, even if more follow: only `next_since` tells. If
    `available_from` is above `since` + 1, events in between may have been deleted from the log.
    """
    patterns = _visible(request.state.grant, event_type)
    last_wanted = MAX_BIGINT if until is None else until
    rows = await database.fetch(
        "events_page", since, last_wanted, patterns, limit, MOST_LOOKED_AT, PAGE_BYTES
    )
    mark = Mark()
    events = [row for row in rows if row["id"] is not None]
    page = EventList(
        items=[
            LoggedEvent(
                id=row["id"],
                type=row["event_type"],
                payload=mark if row["payload"] is None else readable_payload(row["payload"]),
                timestamp=timestamp(row["occurred_at"]),
            )
            for row in events
        ],
        last_event_id=rows[0]["last_event_id"],
        next_since=rows[0]["next_since"],
        available_from=rows[0]["available_from"],
    )
    for row in events:
        if row["payload"] is None:
            share: Share = request.app.state.large
            return LargePayload(share, "event_payload", row["id"], mark.around(page))
    return page


def _visible(grant: Grant, event_type: str) -> list[str] | None:
    """Return the requested patterns, narrowed to those the token may read; None means all.

    Raises:
        HTTPException: 403, the token may read no event of one of the patterns; 422, too many.
    """
    wanted = [pattern.strip() for pattern in (event_type.strip() or "*").split(",")]
    if len(wanted) > MOST_PATTERNS:
        raise invalid("query", "event_type", message=f"more than {MOST_PATTERNS} patterns")
    for pattern in outside(wanted, grant.events):
        raise HTTPException(403, f"This API key cannot read {pattern}")
    visible = narrowed(wanted, grant.events)
    return None if "*" in visible else sorted(visible)
