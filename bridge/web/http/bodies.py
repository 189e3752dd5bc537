"""Bounds what the bodies of requests cost: bytes, fields, pieces, and how many there are at once.

Every body passes through here, whichever route reads it, so no route can forget a limit. Until the
token or session of a request has been checked, the limits are those of strangers.
"""

from dataclasses import dataclass
from typing import Final

import trio
from fastapi import HTTPException, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_KEY = "pgbridge.body"


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a kind of request.

    Attributes:
        most_bytes: of a body; beyond it, the client gets 413.
        most_pieces: in which a body may arrive: one per read, or per chunk of a chunked body. Each
            costs as much as hundreds of bytes do; beyond it, the client gets 413.
        most_fields: of a form; beyond it, the client gets 422.
        most_at_once: how many bodies the process holds, from the first byte to the response. When
            there are more, the one that has been arriving longest gets 429: honest clients send
            theirs at once, so a flood of slow bodies does not keep them out. If all have arrived,
            the new one gets 429.
    """

    most_bytes: int
    most_pieces: int
    most_fields: int
    most_at_once: int


#: Without a valid token. Only the sign-in form has a body: a token and a path. 512 KiB in all.
STRANGERS: Final = Limits(most_bytes=8 * 1024, most_pieces=100, most_fields=10, most_at_once=64)
#: With a valid token. A webhook with every field filled in takes a few kilobytes, and Python parses
#: any body of this size within a few milliseconds. 16 MiB in all.
AUTHENTICATED: Final = Limits(
    most_bytes=64 * 1024, most_pieces=1_000, most_fields=500, most_at_once=256
)


class Bodies:
    """Middleware that hands the application each body within its limits.

    Strangers and authenticated clients have separate shares, so that neither can use up the other.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._shares: dict[Limits, dict[Body, None]] = {STRANGERS: {}, AUTHENTICATED: {}}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        scope[_KEY] = body = Body(Headers(scope=scope), receive, self._shares)
        try:
            await self._app(scope, body.receive, send)
        finally:
            for held in self._shares.values():
                held.pop(body, None)


class Body:
    """The body of one request."""

    def __init__(
        self, headers: Headers, receive: Receive, shares: "dict[Limits, dict[Body, None]]"
    ) -> None:
        #: Those of strangers, until the client is authenticated.
        self.limits = STRANGERS
        self._headers = headers
        self._receive = receive
        self._shares = shares
        self._arrival: trio.CancelScope | None = None
        self._was_read = False

    async def receive(self) -> Message:
        """Return the whole body as one message; after that, wait for the client to leave.

        Raises:
            HTTPException: 413, it exceeds a limit; 415, it is compressed; 429, there are too many;
                and as the server's ``receive``.
        """
        if self._was_read:
            return await self._receive()
        self._was_read = True
        _refuse_content_coding(self._headers)
        declared = self._headers.get("Content-Length", "0")
        if len(declared) > 18 or (declared.isdecimal() and int(declared) > self.limits.most_bytes):
            raise _too_large()
        self._enter(self._shares[self.limits])
        with trio.CancelScope() as self._arrival:
            message = await self._read()
        if self._arrival.cancel_called:
            raise _too_many()
        self._arrival = None
        return message

    def _enter(self, held: "dict[Body, None]") -> None:
        if len(held) >= self.limits.most_at_once:
            slowest = next((body for body in held if body._give_way()), None)
            if slowest is None:
                raise _too_many()
            del held[slowest]
        held[self] = None

    def _give_way(self) -> bool:
        """Stop reading this body; return False if it has arrived."""
        if self._arrival is not None:
            self._arrival.cancel()
        return self._arrival is not None

    async def _read(self) -> Message:
        # In one piece: a thousand small ones would take many times their size.
        body = bytearray()
        for _ in range(self.limits.most_pieces):
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            body += message.get("body", b"")
            if len(body) > self.limits.most_bytes:
                raise _too_large()
            if not message.get("more_body", False):
                return {"type": "http.request", "body": bytes(body), "more_body": False}
        raise HTTPException(413, "Request body in too many pieces")


def body_of(request: Request) -> Body:
    """Return the body of a request."""
    body: Body = request.scope[_KEY]
    return body


def _too_large() -> HTTPException:
    return HTTPException(413, "Request body too large")


def _too_many() -> HTTPException:
    return HTTPException(429, "Too many requests at once", headers={"Retry-After": "1"})


def _refuse_content_coding(headers: Headers) -> None:
    coding = headers.get("Content-Encoding", "identity")
    if coding.strip().lower() not in ("", "identity"):
        raise HTTPException(
            415,
            "Compressed bodies are not supported; omit Content-Encoding",
            headers={"Accept-Encoding": "identity"},
        )
