"""What is answered when a request cannot be done: not found, not now, not like this."""

from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException
from pydantic import BaseModel, Field

from bridge.database.errors import DatabaseError
from bridge.database.pool import Row
from bridge.webhooks.errors import InvalidInputError, NotFoundError, WebhookError
from bridge.webhooks.fields import MAX_BIGINT

#: SQLSTATEs, or their classes, of what passes without us: the same request may be tried again.
PASSING = (
    "40",  # transaction rollback: a deadlock, a serialization failure
    "53",  # insufficient resources: disk, memory, connections
    "55P03",  # lock_not_available
    "57014",  # query_canceled, also by a timeout of the server's
    "58",  # system error: a read of a disk that failed
)
#: Seconds after which a client may well try again what did not work for the moment.
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
    """Describe an answer of ``{"detail": …}``; the headers are told by what they are for."""
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


_RETRY_AFTER = {"Retry-After": "Seconds to wait before the next try."}

FAILED: Responses = {500: _problem("A fault of the bridge: see its log", "Internal Server Error")}
#: What every route with a token may answer beside what it is there for.
GUARDED: Responses = {
    401: _problem(
        "No token, or none that is valid",
        "Missing API key",
        {"WWW-Authenticate": "`Bearer`."},
    ),
    403: _problem(
        "The token does not have the scope",
        "This API key does not have the scope webhooks:write",
    ),
    408: _problem("The request took too long to arrive", "Request Timeout"),
    422: {
        "model": HTTPValidationError,
        "description": "A parameter or the body is not as described; each problem says where",
    },
    429: _problem("Too many requests", "Too many requests; try again soon", _RETRY_AFTER),
    **FAILED,
    503: _problem("The database is away, or busy", "Database unavailable", _RETRY_AFTER),
}
#: And what a route that reads a body may answer, too.
WITH_BODY: Responses = {
    413: _problem("The body is larger than 1 MiB", "Request body too large"),
    415: _problem(
        "The body is compressed",
        "The body must be sent as it is, without Content-Encoding",
        {"Accept-Encoding": "`identity`."},
    ),
}
NO_WEBHOOK: Responses = {404: _problem("There is no such webhook", "Webhook not found")}
NO_TOKEN: Responses = {404: _problem("There is no such valid token", "Token not found")}
NO_DELIVERY: Responses = {404: _problem("There is no such delivery", "Delivery not found")}
CANNOT_BE_SENT: Responses = {
    409: _problem(
        "Its webhook is deleted, or its event has expired",
        "the event of delivery 7 is no longer in the log",
    )
}


def stored_id(row_id: int, what: str = "Webhook") -> int:
    """Return an id that a row can have; any other is not found without asking.

    Raises:
        HTTPException: 404, no row can have it.
    """
    if not 0 < row_id <= MAX_BIGINT:
        raise not_found(what)
    return row_id


def found(rows: Sequence[Row], what: str = "Webhook") -> Row:
    """Return the first row.

    Raises:
        HTTPException: 404, there is none, which means that there is no such thing.
    """
    if not rows:
        raise not_found(what)
    return rows[0]


def not_found(what: str) -> HTTPException:
    """Return the 404 of one thing."""
    return HTTPException(404, f"{what} not found")


def invalid(*place: str | int, message: str, kind: str = "value_error") -> HTTPException:
    """Return the 422 of one place of a request, in the shape of FastAPI's own.

    Args:
        place: ``body``, ``query``, ``path`` or ``header``, then the way to it.
        message: what is wrong, without what was sent: that may be a secret.
        kind: a word for it.
    """
    return HTTPException(422, [{"type": kind, "loc": place, "msg": message}])


def passes(error: DatabaseError) -> bool:
    """Tell whether what PostgreSQL refused now it may well do later."""
    return str(error.sqlstate).startswith(PASSING)


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
