"""The live feed of events."""

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from bridge.access.authenticator import Authenticator
from bridge.access.scopes import EVENTS_READ
from bridge.web.api.parts import InDatabase
from bridge.web.console.guard import page_router
from bridge.web.console.rendering import page

#: Number of recent events that the page shows when it opens.
SHOWN_AT_FIRST = 30

watching = page_router(EVENTS_READ)
ROUTERS = (watching,)


@watching.get("/console/events")
async def events_page(request: Request, database: InDatabase) -> Response:
    """Show the live feed; its script connects to the stream."""
    [row] = await database.fetch("newest_event")
    return page(
        request,
        "events",
        since=max(0, row["newest_id"] - SHOWN_AT_FIRST),
        patterns=sorted(request.state.grant.events),
    )


@watching.post("/console/ticket")
async def feed_ticket(request: Request) -> Response:
    """Issue a ticket for the stream, since scripts have neither the token nor the cookie."""
    tokens: Authenticator = request.app.state.tokens
    ticket, _ = await tokens.create_ticket(request.state.grant)
    return JSONResponse({"ticket": ticket})
