"""Responses with a payload of megabytes."""

from collections.abc import AsyncIterator, Mapping
from secrets import token_hex
from typing import Literal

from fastapi import Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import Database
from bridge.database.shares import Share

#: Characters of a payload that are read at once.
PIECE = 4 * 1024 * 1024


class LargePayload(Response):
    """A response with a payload as PostgreSQL writes it, never parsed, and read piece by piece.

    Parsed, five megabytes of empty lists would take two hundred. Only a few such responses are sent
    at once; others wait for their turn, or get 503 after a while.

    Args:
        share: limits the number of responses.
        query: returns a piece of the payload by id.
        around: JSON before and after the payload.
        more_headers: of the response.
    """

    def __init__(
        self,
        share: Share,
        query: Literal["delivery_payload", "event_payload"],
        row_id: int,
        around: tuple[str, str] = ("", ""),
        status: int = 200,
        more_headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(None, status)
        self._share = share
        self._query = query
        self._row_id = row_id
        self._around = around
        self._more_headers = more_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the payload and send it.

        Raises:
            DatabaseUnavailable: no turn in time, or the payload expired before all of it was read.
        """
        async with self._share.turn() as database:
            first = await self._piece(database, 0)
            response = StreamingResponse(
                self._pieces(database, first),
                self.status_code,
                self._more_headers,
                "application/json",
            )
            await response(scope, receive, send)

    async def _pieces(self, database: Database, piece: str | None) -> AsyncIterator[str]:
        before, after = self._around
        yield before
        yield "null" if piece is None else piece
        number = 1
        while piece is not None and len(piece) == PIECE:
            piece = await self._piece(database, number)
            if piece is None:
                raise DatabaseUnavailable("the payload has expired")
            number += 1
            yield piece
        yield after

    async def _piece(self, database: Database, number: int) -> str | None:
        rows = await database.fetch(self._query, self._row_id, number * PIECE, PIECE)
        piece: str | None = rows[0]["piece"] if rows else None
        return piece


class Mark(str):
    """Stands for a large payload in a model."""

    __slots__ = ()

    def __new__(cls) -> "Mark":
        """Return a text that occurs nowhere else."""
        return super().__new__(cls, token_hex(16))

    def around(self, model: BaseModel) -> tuple[str, str]:
        """Return a model's JSON before and after the mark."""
        before, after = model.model_dump_json().split(f'"{self}"')
        return before, after
