"""Error responses, and how the OpenAPI document describes them."""

from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException
from pydantic import BaseModel, Field

from bridge.database.errors import DatabaseError
from bridge.database.pool import Row
from bridge.web.http.body import invalid
from bridge.webhooks.errors import InvalidInputError, NotFoundError, WebhookError
from bridge.webhooks.fields import MAX_BIGINT

#: SQLSTATEs, or their classes, of transient errors: the same request may succeed later.
TRANSIENT = (
    "40",  # transaction rollback: a deadlock, a serialization failure
    "53",  # insufficient resources: disk, memory, connections
    "55P03",  # lock_not_available
    "57014",  # query_canceled, for example by statement_timeout
    "58",  # system error, such as a failed disk read
)
#: ``Retry-After`` of a transient error.
RETRY_SECONDS = 1

Responses = dict[int | str, dict[str, Any]]


class Problem(BaseModel):
    """What was wrong with a request."""

    detail: str


# These two have the names that FastAPI gives them, for generated clients.
class ValidationError(BaseModel):
    """A problem at one place of a request."""

    type: str = Field(description="A short name for the problem.", examples=["missing"])
    loc: list[str | int] = Field(
        description="`body`, `query`, `path` or `header`, then the path to the value.",
        examples=[["body", "name"]],
    )
    msg: str = Field(examples=["Field required"])


class HTTPValidationError(BaseModel):
    """All problems of a request."""

    detail: list[ValidationError]


def _problem(description: str, example: str, headers: dict[str, str] | None = None) -> Any:
    """Describe a response of ``{"detail": …}``; the headers come with their descriptions."""
    described = {
        name: {"description": what, "schema": {"type": "string"}}
        for name, what in (headers or {}).items()
    }
    return {
        "model": Problem,
        "description": description,
        "content": {"application/json": {"example": {"detail": example}}},
        **({"headers": described} if described else {}),
    }


_RETRY_AFTER = {"Retry-After": "Seconds to wait before trying again."}

FAILED: Responses = {500: _problem("A bug in the bridge: see its log", "Internal Server Error")}
#: What every route that needs a token can also respond with.
GUARDED: Responses = {
    401: _problem(
        "The token is missing, invalid or expired",
        "Missing API key",
        {"WWW-Authenticate": "`Bearer`."},
    ),
    403: _problem(
        "The token lacks the scope",
        "This API key does not have the scope webhooks:write",
    ),
    408: _problem("The request took too long to arrive", "Request Timeout"),
    422: {
        "model": HTTPValidationError,
        "description": "A parameter or the body is invalid; each problem names its place",
    },
    429: _problem("Too many requests", "Too many requests; try again soon", _RETRY_AFTER),
    **FAILED,
    503: _problem("The database is unavailable or busy", "Database unavailable", _RETRY_AFTER),
}
#: What a route that reads a body can also respond with.
WITH_BODY: Responses = {
    413: _problem("The body is larger than 1 MiB", "Request body too large"),
    415: _problem(
        "The body is compressed",
        "Compressed bodies are not supported; omit Content-Encoding",
        {"Accept-Encoding": "`identity`."},
    ),
}
NO_WEBHOOK: Responses = {404: _problem("The webhook does not exist", "Webhook not found")}
NO_TOKEN: Responses = {404: _problem("The token does not exist, or is revoked", "Token not found")}
NO_DELIVERY: Responses = {404: _problem("The delivery does not exist", "Delivery not found")}
CANNOT_BE_SENT: Responses = {
    409: _problem(
        "The webhook has been deleted, or the event has expired",
        "the event of delivery 7 is no longer in the log",
    )
}


def stored_id(row_id: int, what: str = "Webhook") -> int:
    """Return an id if a row can have it.

    Raises:
        HTTPException: 404, the id is out of range.
    """
    if not 0 < row_id <= MAX_BIGINT:
        raise not_found(what)
    return row_id


def found(rows: Sequence[Row], what: str = "Webhook") -> Row:
    """Return the first row.

    Raises:
        HTTPException: 404, there are no rows.
    """
    if not rows:
        raise not_found(what)
    return rows[0]


def not_found(what: str) -> HTTPException:
    """Return the 404 for a kind of thing."""
    return HTTPException(404, f"{what} not found")


def is_transient(error: DatabaseError) -> bool:
    """Tell whether the same statement may succeed later."""
    return str(error.sqlstate).startswith(TRANSIENT)


def answer_of(error: WebhookError) -> HTTPException:
    """Return the response to a failed operation on webhooks: 404, 409 or 422."""
    match error:
        case NotFoundError():
            return not_found(error.what.capitalize())
        case InvalidInputError(field=None):
            return invalid("body", message=error.problem, kind=error.kind)
        case InvalidInputError(field=str(field)):
            return invalid("body", field, message=error.problem, kind=error.kind)
    return HTTPException(409, str(error))
