"""Submitted forms."""

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import parse_qsl

from fastapi import HTTPException, Request
from pydantic import BaseModel, ValidationError

from bridge.terminal.suggestion import unknown
from bridge.web.http.bodies import body_of
from bridge.webhooks.errors import InvalidInputError, TooManyError

Model = TypeVar("Model", bound=BaseModel)
#: What is wrong, by field; empty if the page's own sentence for the field is enough.
Problems = dict[str, str]

#: The key of the problem that there are as many already as there may be.
LIMIT = "limit"

_FORM = "application/x-www-form-urlencoded"


class Form:
    """The fields of a form; a name may have several values."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        """Return the stripped text of a field, or an empty string."""
        values = self._fields.get(name, [])
        return values[-1].strip() if values else ""

    def texts(self, name: str) -> list[str]:
        """Return all values of a name."""
        return self._fields.get(name, [])

    def chosen(self, name: str) -> bool:
        """Return whether a box was ticked."""
        return name in self._fields

    def refuse_unknown(self, *known: str) -> None:
        """Reject fields other than the known ones.

        Raises:
            HTTPException: 422, there is one.
        """
        for name in self._fields:
            if name not in known:
                raise HTTPException(422, f"The form has an {unknown('field', name, known)}")


async def read_form(request: Request) -> Form:
    """Parse the form of a request; without a body it has no fields.

    Raises:
        HTTPException: 413, 415 or 429, as for any body; 422, the body is not a form.
    """
    body = await request.body()
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if body and media_type != _FORM:
        raise HTTPException(422, f"Content-Type must be {_FORM}")
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=body_of(request).limits.most_fields,
        )
    except ValueError:
        raise HTTPException(422, "The form cannot be read") from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        # Browsers submit line ends as CRLF.
        fields.setdefault(name, []).append(value.replace("\r\n", "\n"))
    return Form(fields)


def checked(model: type[Model], texts: Mapping[str, str]) -> tuple[Model | None, Problems]:
    """Return the model of the fields that are not empty, or None and the kinds of problems."""
    try:
        return model.model_validate({name: text for name, text in texts.items() if text}), {}
    except ValidationError as error:
        return None, {str(each["loc"][0]): each["type"] for each in error.errors()}


def status_of(problems: Problems | None) -> int:
    """Return the status of a form's page."""
    return 200 if not problems else 409 if LIMIT in problems else 422


def problems_of(error: ValidationError | InvalidInputError | TooManyError) -> Problems:
    """Return what is wrong, by field."""
    if isinstance(error, TooManyError):
        return {LIMIT: str(error)}
    if isinstance(error, InvalidInputError):
        return {str(error.field): error.problem}
    # pydantic's own messages are for programs.
    return {str(each["loc"][0]): "" for each in error.errors() if each["loc"]}


def decimal_point(text: str) -> str:
    """Return a number with a decimal point. Much of Europe writes a comma."""
    return text.replace(",", ".")
