"""What is answered when a request cannot be done: not found, not now, not like this."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError

from bridge.db import DatabaseError, Row
from bridge.web.schemas import MAX_BIGINT, Problem

#: What the functions of schema bridge raise, by SQLSTATE, and the status that says the same.
REFUSALS = {
    "P0002": 404,  # no_data_found
    "55000": 409,  # object_not_in_prerequisite_state
    "22023": 422,  # invalid_parameter_value
}
#: Classes of SQLSTATE that a text gives which is no jsonpath: data, features, syntax, limits.
NO_JSONPATH = ("22", "0A", "42", "54")

NO_WEBHOOK: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "There is no such webhook"}
}
NO_DELIVERY: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "There is no such delivery"}
}
CANNOT_BE_SENT: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "Its webhook is deleted, or its event has expired"}
}
TOO_LARGE: dict[int | str, dict[str, Any]] = {
    413: {"model": Problem, "description": "The body is too large"}
}


def stored_id(row_id: int, what: str = "Webhook") -> int:
    """Return an id that a row can have; any other is not found without asking."""
    if not 0 < row_id <= MAX_BIGINT:
        raise not_found(what)
    return row_id


def found(rows: Sequence[Row], what: str = "Webhook") -> Row:
    """Return the first row; none means that there is no such thing."""
    if not rows:
        raise not_found(what)
    return rows[0]


def not_found(what: str) -> HTTPException:
    """Return the 404 of one thing."""
    return HTTPException(404, f"{what} not found")


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Answer what a function of schema bridge refuses as the status that says it."""
    try:
        yield
    except DatabaseError as error:
        status = REFUSALS.get(error.sqlstate)
        if status is None:
            raise
        if status == 404:
            raise not_found(what) from None
        raise HTTPException(status, error.message) from None


@contextmanager
def refusing_filter(filter_text: str | None) -> Iterator[None]:
    """Answer a filter that PostgreSQL does not take like any other bad field."""
    try:
        yield
    except DatabaseError as error:
        if filter_text is None:
            raise
        if error.constraint_name == "webhooks_filter_without_variables":
            message = "must not have variables; a field is written $.name"
        elif error.sqlstate.startswith(NO_JSONPATH):
            message = f"must be a jsonpath: {error.message}"
        else:
            raise
        raise invalid_field("body", "filter", message) from None


def invalid_field(place: str, field: str, message: str) -> RequestValidationError:
    """Return the 422 of one field, in the shape of all others."""
    return RequestValidationError([{"type": "value_error", "loc": (place, field), "msg": message}])
