"""The fields of requests and answers: what each takes, and how the document describes it."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import httpx
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
)
from pydantic_core import PydanticCustomError

from bridge.access.vault import secret_problem
from bridge.events import PATTERN

#: Largest id that PostgreSQL can hold.
MAX_BIGINT = 2**63 - 1

#: Longest filter. Not in the schema: who invents filters by a length invents what means nothing.
MAX_FILTER = 4000
#: What a filter must not be that is a jsonpath, by the constraint of the database that says so.
FILTER_REFUSALS: Final = {
    "webhooks_filter_without_variables": "must not have variables; a field is written $.name",
    "webhooks_filter_without_back_references": (
        r"must not have a back-reference such as \1 in like_regex: it could hold up every event"
    ),
}

# A scheme, an authority without userinfo, and no white space anywhere. A backslash in an authority
# means a path to some parsers and a host to others.
_HTTP_URL = re.compile(r"https?://[^\s/?#@\\]+([/?#]\S*)?", re.IGNORECASE)
# What may stand in a request for a name resolver: letters, digits, hyphens, dots, underscores.
_HOST_NAME = re.compile(rb"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_IPV6 = re.compile(rb"[0-9a-f:.]*:[0-9a-f:.]*", re.IGNORECASE)


def _storable(text: str) -> str:
    """Refuse what JSON can say and PostgreSQL's text cannot hold."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must not contain NUL or half of a surrogate pair")
    return text


def _deliverable(url: str) -> str:
    """Refuse what no delivery could be sent to, by the parser that the deliveries go through."""
    if not _HTTP_URL.fullmatch(url):
        raise ValueError("must be an http or https URL with a host and without user or password")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise ValueError("must be a URL") from None
    # An IPv6 address has its colons, but no zone: that names an interface of the bridge's machine.
    if not (_IPV6.fullmatch(parsed.raw_host) or _HOST_NAME.fullmatch(parsed.raw_host)):
        raise ValueError("must have a valid host")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise ValueError("must have a port between 1 and 65535")
    return url


def _usable_secret(secret: str) -> str:
    """Refuse a secret that would be taken for something else."""
    if problem := secret_problem(secret):
        raise ValueError(problem)
    return secret


def _bounded(filter_text: str) -> str:
    """Refuse what may take exponential time: the drain evaluates filters for every event."""
    if len(filter_text) > MAX_FILTER:
        raise ValueError(f"must not be longer than {MAX_FILTER} characters")
    bare = re.sub(r'"([^"\\]|\\.)*"', '""', filter_text)
    if "**" in bare or bare.count("?") > 1:
        raise ValueError("must not have more than one ? (…), nor **: it could hold up every event")
    return filter_text


def _empty_is_none(value: Any) -> Any:
    """Read the empty field of a form as nothing given."""
    return None if value == "" else value


def _huge_is_zero(value: Any) -> Any:
    """Turn more digits than any id has into an id that no row has: it is not found, not refused."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{20,}", value):
        return 0
    return value


def _plain_digits(value: Any) -> Any:
    """Refuse a number that is written as only Python would: ``1_0``, `` 1 ``, ``1.0``, ``+1``."""
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]+", value):
        raise PydanticCustomError("int_parsing", "Input should be a valid integer")
    return value


def _no_flag(value: Any) -> Any:
    """Refuse true and false where a number is meant: Python takes them for 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number, not true or false")
    return value


def _no_epoch(value: Any) -> Any:
    """Refuse a number for a time: ``{"since": 0}`` would be everything since 1970."""
    is_number = isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9.]+\s*", value)
    if isinstance(value, (int, float)) or is_number:
        raise PydanticCustomError("datetime_type", "Input should be a date and a time")
    return value


def _in_utc(moment: datetime) -> datetime:
    """Take a time without a zone for one in UTC."""
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be between the years 1 and 9999") from None


_Storable = Annotated[str, AfterValidator(_storable)]
Text = Annotated[_Storable, Field(json_schema_extra={"pattern": "^[^\\u0000]*$"})]
Moment = Annotated[datetime, BeforeValidator(_no_epoch), AfterValidator(_in_utc)]
# Fields that the contract does not have: a client that has them says true or false.
Flag = Annotated[bool, Strict()]
Name = Annotated[Text, Field(min_length=1, max_length=255)]
Url = Annotated[
    _Storable,
    Field(
        min_length=1,
        max_length=2048,
        description="http or https, with a host, without user or password.",
        json_schema_extra={"format": "uri"},
    ),
    AfterValidator(_deliverable),
]
EventType = Annotated[
    str,
    Field(
        # It stands in an index, whose entries have a limit.
        max_length=255,
        pattern=f"^(?:{PATTERN.pattern})$",
        description="An exact type (ticket.created) or a pattern (ticket.*, *).",
        examples=["user.created", "ticket.*", "*"],
    ),
]
OptionalText = Annotated[Text | None, BeforeValidator(_empty_is_none)]
Secret = Annotated[Text, AfterValidator(_usable_secret)]
OptionalSecret = Annotated[Secret | None, BeforeValidator(_empty_is_none)]
TimeoutSeconds = Annotated[
    int,
    Field(ge=1, le=120, description="Deadline of one whole delivery attempt."),
    BeforeValidator(_no_flag),
]
MaxConcurrency = Annotated[
    int,
    Field(ge=1, le=1000, description="Most attempts that one bridge has in flight to it."),
    BeforeValidator(_no_flag),
]
Filter = Annotated[
    _Storable,
    Field(
        json_schema_extra={"format": "jsonpath"},
        description=(
            "A jsonpath predicate of PostgreSQL's: only events of whose payload it is true are "
            "delivered. An error in it means no. Up to 4000 characters, without variables."
        ),
        examples=["$.amount_kopeks >= 100000"],
    ),
    AfterValidator(_bounded),
]
OptionalFilter = Annotated[Filter | None, BeforeValidator(_empty_is_none)]
RatePerSecond = Annotated[
    float,
    Field(
        ge=0.001,
        le=100_000,
        allow_inf_nan=False,
        description="Most attempts a second to it, in all.",
    ),
    BeforeValidator(_no_flag),
]
RetrySchedule = Annotated[
    list[
        Annotated[
            float,
            Field(ge=0, le=2_592_000, allow_inf_nan=False),
            BeforeValidator(_no_flag),
        ]
    ],
    Field(
        min_length=1,
        max_length=100,
        description=(
            "Seconds to wait before each attempt, the first included. "
            "Without one, that of the bridge holds."
        ),
    ),
]
DeliveryStatus = Literal["pending", "success", "failed"]

# Numbers as PostgreSQL has them.
Id = Annotated[int, Field(json_schema_extra={"format": "int64"})]
Count = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]

# Parameters of requests. An id out of range is one that no row has: it is not found.
RowId = Annotated[
    int,
    Field(examples=[1], json_schema_extra={"format": "int64"}),
    BeforeValidator(_huge_is_zero),
    BeforeValidator(_plain_digits),
]
WebhookId = Annotated[RowId, Field(description="The webhook's id.")]
DeliveryId = Annotated[RowId, Field(description="The delivery's id.")]
BeforeId = Annotated[
    int,
    Field(ge=1, le=MAX_BIGINT, json_schema_extra={"format": "int64"}),
    BeforeValidator(_plain_digits),
]
EventId = Annotated[
    int,
    Field(ge=0, le=MAX_BIGINT, json_schema_extra={"format": "int64"}),
    BeforeValidator(_plain_digits),
]
Limit = Annotated[
    int,
    Field(ge=1, le=200, description="How many there may be on a page."),
    BeforeValidator(_plain_digits),
]
Offset = Annotated[
    int,
    Field(
        ge=0, le=MAX_BIGINT, description="How many to skip.", json_schema_extra={"format": "int64"}
    ),
    BeforeValidator(_plain_digits),
]
# Empty, as the field of a form, means any.
Patterns = Annotated[
    str,
    Field(
        pattern=f"^ *$|^ *(?:{PATTERN.pattern}) *(?:, *(?:{PATTERN.pattern}) *)*$",
        examples=["ticket.*,user.created"],
    ),
]
OptionalFlag = Annotated[bool | None, BeforeValidator(_empty_is_none)]
OptionalStatus = Annotated[DeliveryStatus | None, BeforeValidator(_empty_is_none)]


def example(**fields: Any) -> ConfigDict:
    """Say in the schema what a body may look like; an error shows nothing of one that was sent."""
    return ConfigDict(hide_input_in_errors=True, json_schema_extra={"examples": [fields]})
