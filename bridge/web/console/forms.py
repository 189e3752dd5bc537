"""What the forms of the pages send."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

from fastapi import HTTPException, Request

from bridge.web.http.body import BoundedRequest

#: Fields of a form at most; the longest of ours has about fifteen.
MOST_FIELDS = 500
_FORM = "application/x-www-form-urlencoded"


class Form:
    """The fields of a form: text, which may come several times under one name."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        """Return what was typed into a field, without white space around it; or nothing."""
        values = self._fields.get(name, [])
        return values[-1].strip() if values else ""

    def texts(self, name: str) -> list[str]:
        """Return all that was chosen under one name."""
        return self._fields.get(name, [])

    def chosen(self, name: str) -> bool:
        """Tell whether a box was ticked."""
        return name in self._fields


async def read_form(request: Request) -> Form:
    """Return the form that a request brings; one without a body has no fields.

    Raises:
        HTTPException: 413, 415, as for any body; 422, it is no form.
    """
    bounded = BoundedRequest(request.scope, request.receive)
    body = b"".join([piece async for piece in bounded.stream()])
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if body and media_type != _FORM:
        raise HTTPException(422, f"Content-Type must be {_FORM}")
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except ValueError:
        raise HTTPException(422, "The form cannot be read") from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        # A browser ends the lines of a text with both; whoever typed them meant one end of a line.
        fields.setdefault(name, []).append(value.replace("\r\n", "\n"))
    return Form(fields)
