"""Tickets, with which a browser opens the stream without putting a token in a URL."""

from datetime import datetime

from fastapi import Request
from pydantic import BaseModel, Field

from bridge.access.authenticator import Authenticator
from bridge.access.scopes import EVENTS_READ
from bridge.web.api.auth import guarded_router

listening = guarded_router(EVENTS_READ, "stream")
ROUTERS = (listening,)


class Ticket(BaseModel):
    """A ticket that opens one WebSocket."""

    ticket: str = Field(
        repr=False,
        description="For `/ws?ticket=…`. Valid once, with the scopes of the token.",
        examples=["pgt_2dSBlBzVOoYBvSdKyXDwHqKGO8Nx2YiLHkqAnHdYwHE"],
    )
    expires_at: datetime = Field(description="Half a minute from now.")


@listening.post("/ws/tickets", status_code=201, summary="Get a ticket")
async def create_ticket(request: Request) -> Ticket:
    """Get a ticket to open the stream in place of a token: URLs end up in logs."""
    tokens: Authenticator = request.app.state.tokens
    ticket, expires_at = await tokens.create_ticket(request.state.grant)
    return Ticket(ticket=ticket, expires_at=expires_at)
