"""Reading the body of a request: not without end, and whatever is not JSON is refused as such."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import HTTPException, Request

#: Largest body of a request. A webhook with every field filled in is a few kilobytes.
MAX_BODY_BYTES = 1024 * 1024


class BoundedRequest(Request):
    """A request whose body has an end."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body piece by piece.

        Raises:
            HTTPException: 413, there is more than ``MAX_BODY_BYTES`` of it.
        """
        size = 0
        async with aclosing(super().stream()) as pieces:
            async for piece in pieces:
                size += len(piece)
                if size > MAX_BODY_BYTES:
                    raise HTTPException(413, "Request body too large")
                yield piece

    async def json(self) -> Any:
        """Return the parsed body.

        Raises:
            JSONDecodeError: it is no JSON, which FastAPI answers with 422. Text that is not UTF-8,
                nesting without end and numbers of thousands of digits raise other errors in
                Python, which it would answer with 400.
        """
        try:
            return await super().json()
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError):
            raise json.JSONDecodeError("Not JSON that can be read", "", 0) from None
