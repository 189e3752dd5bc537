"""The types of request parameters, and how the API's schema describes them."""

import re
from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from bridge.events import PATTERN
from bridge.webhooks.fields import MAX_BIGINT, DeliveryStatus, empty_is_none


def _impossible_is_zero(value: Any) -> Any:
    """Turn an id that no row can have into 0, which no row has either: 404 and not 422."""
    if isinstance(value, str):
        return int(value) if len(value) < 20 and 0 < int(value) <= MAX_BIGINT else 0
    return value


def _plain_digits(value: Any) -> Any:
    """Reject numbers in a notation of Python's: ``1_0``, `` 1 ``, ``1.0``, ``+1``."""
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]+", value):
        raise PydanticCustomError("int_parsing", "Input should be a valid integer")
    return value


#: An id in a path. No row has an id out of range, so that is not found rather than invalid.
RowId = Annotated[
    int,
    Field(examples=[1], json_schema_extra={"format": "int64"}),
    BeforeValidator(_impossible_is_zero),
    BeforeValidator(_plain_digits),
]
WebhookId = Annotated[RowId, Path(description="The webhook's id.")]
DeliveryId = Annotated[RowId, Path(description="The delivery's id.")]
TokenId = Annotated[RowId, Path(description="The token's id.")]
_DIGITS = BeforeValidator(_plain_digits)
_INT64 = {"format": "int64"}
BeforeId = Annotated[
    Annotated[int, Field(ge=1, le=MAX_BIGINT, json_schema_extra=_INT64), _DIGITS] | None,
    Query(description="Only older ones: the `next_before_id` of the previous page."),
]
EventId = Annotated[int, Field(ge=0, le=MAX_BIGINT, json_schema_extra=_INT64), _DIGITS]
Limit = Annotated[
    int, Query(ge=1, le=200, description="Maximum number of items on a page."), _DIGITS
]
Offset = Annotated[
    int,
    Query(ge=0, le=MAX_BIGINT, description="Number of items to skip.", json_schema_extra=_INT64),
    _DIGITS,
]
#: Comma-separated patterns of event types; empty, as a form sends it, means any.
Patterns = Annotated[
    str,
    Query(
        description="Only these types or patterns, comma-separated; at most 100.",
        pattern=f"^ *$|^ *(?:{PATTERN.pattern}) *(?:, *(?:{PATTERN.pattern}) *)*$",
        examples=["ticket.*,user.created"],
    ),
]
IsActive = Annotated[
    bool | None, BeforeValidator(empty_is_none), Query(description="Only active or inactive ones.")
]
OptionalStatus = Annotated[
    DeliveryStatus | None, BeforeValidator(empty_is_none), Query(description="Only this status.")
]
