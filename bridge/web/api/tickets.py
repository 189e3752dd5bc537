"""Tickets for the stream, so that a browser needs no token in a URL."""

from datetime import datetime

from fastapi import Request
from pydantic import BaseModel, Field

from bridge.access.authenticator import Authenticator
from bridge.access.scopes import EVENTS_READ
from bridge.web.api.auth import guarded_router

listening = guarded_router(EVENTS_READ)
ROUTERS = (listening,)


class Ticket(BaseModel):
    """A ticket that opens one WebSocket."""

    ticket: str = Field(
        repr=False,
        description="For `/ws?ticket=…`, once. What it allows is what the token allows.",
        examples=["pgt_2dSBlBzVOoYBvSdKyXDwHqKGO8Nx2YiLHkqAnHdYwHE"],
    )
    expires_at: datetime = Field(description="It has to be used before: half a minute from now.")


@listening.post("/ws/tickets", status_code=201, tags=["stream"], summary="Get a ticket")
async def create_ticket(request: Request) -> Ticket:
    """Get a ticket to open the stream with, in place of a token, which URLs would show to logs."""
    tokens: Authenticator = request.app.state.tokens
    ticket, expires_at = await tokens.create_ticket(request.state.grant)
    return Ticket(ticket=ticket, expires_at=expires_at)
