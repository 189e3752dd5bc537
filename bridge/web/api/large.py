"""Responses with a payload of megabytes."""

from collections.abc import Mapping
from secrets import token_hex
from typing import Literal

from fastapi import Response
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from bridge.database.shares import Share


class LargePayload(Response):
    """A response with a payload as PostgreSQL writes it, never parsed.

    Parsed, five megabytes of empty lists would take two hundred. Only a few such responses are in
    memory at once; others wait for their turn, or get 503 after a while.

    Args:
        share: limits the number of responses.
        query: returns the payload by id.
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
        """Read the payload and send it."""
        before, after = self._around
        async with self._share.turn() as database:
            rows = await database.fetch(self._query, self._row_id)
            payload = (rows[0]["payload"] if rows else None) or "null"
            response = Response(
                f"{before}{payload}{after}",
                self.status_code,
                self._more_headers,
                "application/json",
            )
            await response(scope, receive, send)


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
