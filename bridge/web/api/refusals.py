"""Error responses, and how the OpenAPI document describes them."""

import math
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException
from pydantic import BaseModel, Field

from bridge.access.authenticator import (
    TooManyFailuresError,
    TooManyTicketsError,
    UnreadableTokensError,
)
from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.pool import Row
from bridge.database.queries import unrepresentable
from bridge.web.http.body import invalid
from bridge.webhooks.errors import InvalidInputError, NotFoundError, WebhookError

#: SQLSTATEs, or their classes, of transient errors: the same request may succeed later.
TRANSIENT = (
    "40",  # transaction rollback: a deadlock, a serialization failure
    "53",  # insufficient resources: disk, memory, connections
    "55P03",  # lock_not_available
    "57014",  # query_canceled, for example by statement_timeout
    "58",  # system error, such as a failed disk read
)
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
    413: _problem("The body is larger than 64 KiB", "Request body too large"),
    415: _problem(
        "The body is compressed",
        "Compressed bodies are not supported; omit Content-Encoding",
        {"Accept-Encoding": "`identity`."},
    ),
}
NO_WEBHOOK: Responses = {404: _problem("The webhook does not exist", "Webhook not found")}
NO_TOKEN: Responses = {404: _problem("The token does not exist, or is revoked", "Token not found")}
NO_REDELIVERY: Responses = {
    404: _problem(
        "The webhook does not exist, or none of its deliveries were redelivered by time range",
        "Redelivery of webhook not found",
    )
}
NO_DELIVERY: Responses = {404: _problem("The delivery does not exist", "Delivery not found")}
NO_DEAD_LETTER: Responses = {
    404: _problem("The dead letter does not exist", "Dead letter not found")
}
CANNOT_BE_RETRIED: Responses = {
    409: _problem(
        "The webhook has been deleted, or the database still rejects it",
        "the webhook of dead letter 7 is deleted",
    )
}
CANNOT_BE_SENT: Responses = {
    409: _problem(
        "The webhook has been deleted, or the event has expired",
        "the event of delivery 7 is no longer in the log",
    )
}
TOO_MANY: Responses = {
    409: _problem(
        "There are as many as the bridge allows",
        "there are already 10000 webhooks, the limit of BRIDGE_MAX_WEBHOOKS; delete some, or raise "
        "it",
    )
}
REDELIVERY_RUNS: Responses = {
    409: _problem(
        "Another redelivery of the webhook is running", "webhook 7 has a running redelivery"
    )
}


def found(rows: Sequence[Row], what: str) -> Row:
    """Return the first row.

    Raises:
        HTTPException: 404, there are no rows.
    """
    if not rows:
        raise HTTPException(404, f"{what} not found")
    return rows[0]


def later(status: int, detail: str, seconds: float = 1.0) -> HTTPException:
    """Return the response to a request that may be sent again after some seconds."""
    return HTTPException(status, detail, headers={"Retry-After": str(math.ceil(seconds))})


def answer_of(error: Exception) -> HTTPException | None:
    """Return the response to an expected error; None if the error is a bug."""
    match error:
        case NotFoundError():
            return HTTPException(404, f"{error.what.capitalize()} not found")
        case InvalidInputError():
            place = [] if error.field is None else [error.field]
            return invalid("body", *place, message=error.problem, kind=error.kind)
        case WebhookError():
            return HTTPException(409, str(error))
        case TooManyFailuresError():
            return later(429, "Too many failed attempts", error.retry_seconds)
        case TooManyTicketsError():
            return later(429, str(error), error.retry_seconds)
        case UnreadableTokensError():
            # Not 401, although the token may be unknown: a dashboard would discard the bot's.
            return later(503, "The bot's API keys cannot be checked; see the bridge's log")
        case DatabaseUnavailable():
            return later(503, "Database unavailable")
        case DatabaseError() if str(error.sqlstate).startswith(TRANSIENT):
            return later(503, "Database unavailable")
        case DatabaseError() if problem := unrepresentable(error):
            return invalid(message=f"the request {problem}")
    return None
