"""The types of a webhook's fields: what each accepts, and how the API's schema describes it."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict
from pydantic_core import PydanticCustomError

from bridge.access.vault import secret_problem
from bridge.events import PATTERN
from bridge.terminal.visible import CONTROLS

#: Largest id that PostgreSQL can store.
MAX_BIGINT: Final = 2**63 - 1

#: Longest description, in characters. The audit log keeps every version of it.
MAX_DESCRIPTION = 4000

#: Longest secret, in characters. Couriers read it with every delivery.
MAX_SECRET = 1024

NO_CONTROLS: Final = "must not contain control characters or change the direction of writing"

# A scheme, an authority without userinfo, and no white space. Parsers disagree whether a backslash
# in an authority begins a path.
_HTTP_URL = re.compile(r"https?://[^\s/?#@\\]+([/?#]\S*)?", re.IGNORECASE)
# Characters that a name resolver accepts.
_HOST_NAME = re.compile(rb"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_IPV6 = re.compile(rb"[0-9a-f:.]*:[0-9a-f:.]*", re.IGNORECASE)


def _storable(text: str) -> str:
    """Reject text that is valid JSON but that PostgreSQL cannot store."""
    if _UNSTORABLE.search(text):
        raise ValueError("must not contain NUL or an unpaired surrogate")
    return text


def _without_controls(text: str) -> str:
    """Reject characters that could control the terminal of whoever reads the text."""
    if re.search(f"[{CONTROLS}]", text):
        raise ValueError(NO_CONTROLS)
    return text


def _description(text: str | None) -> str | None:
    """Reject such characters in a text that may have several lines."""
    _without_controls(re.sub(r"[\t\n\r]", "", text or ""))
    return text


def _deliverable(url: str) -> str:
    """Reject URLs that no request can be sent to, with the parser that deliveries use."""
    import httpx  # the command line imports this module, and rarely checks a URL

    if not _HTTP_URL.fullmatch(url):
        raise ValueError("must be an http or https URL with a host and without user or password")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise ValueError("must be a URL") from None
    # IPv6 addresses must not have a zone, which names an interface of this machine.
    if not (_IPV6.fullmatch(parsed.raw_host) or _HOST_NAME.fullmatch(parsed.raw_host)):
        raise ValueError("must have a valid host")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise ValueError("must have a port between 1 and 65535")
    return url


def _usable_secret(secret: str) -> str:
    """Reject secrets that could be mistaken for an encrypted secret or an encoded key."""
    if problem := secret_problem(secret):
        raise ValueError(problem)
    return secret


def empty_is_none(value: Any) -> Any:
    """Treat an empty form field as missing."""
    return None if value == "" else value


def _no_flag(value: Any) -> Any:
    """Reject booleans where a number is expected: Python accepts them as 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number, not true or false")
    return value


def _no_epoch(value: Any) -> Any:
    """Reject numbers where a time is expected: ``{"since": 0}`` would mean 1970."""
    is_number = isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9.]+\s*", value)
    if isinstance(value, (int, float)) or is_number:
        raise PydanticCustomError("datetime_type", "Input should be a date and a time")
    return value


def _in_utc(moment: datetime) -> datetime:
    """Convert to UTC; a time without a zone is in UTC already."""
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be between the years 1 and 9999") from None


_Storable = Annotated[str, AfterValidator(_storable)]
Text = Annotated[_Storable, Field(json_schema_extra={"pattern": "^[^\\u0000]*$"})]
Moment = Annotated[datetime, BeforeValidator(_no_epoch), AfterValidator(_in_utc)]
#: A boolean of our own fields. Those of the contract also accept "true", 1 and the like.
Flag = Annotated[bool, Strict()]
Name = Annotated[
    _Storable,
    Field(min_length=1, max_length=255, json_schema_extra={"pattern": f"^[^{CONTROLS}]*$"}),
    AfterValidator(_without_controls),
]
Url = Annotated[
    _Storable,
    Field(
        min_length=1,
        max_length=2048,
        description="http or https, with a host, without user or password.",
        json_schema_extra={"format": "uri"},
    ),
    AfterValidator(_without_controls),
    AfterValidator(_deliverable),
]
EventType = Annotated[
    str,
    Field(
        # The column is indexed, and index entries have a maximum size.
        max_length=255,
        pattern=f"^(?:{PATTERN.pattern})$",
        description="An exact type (ticket.created) or a pattern (ticket.*, *).",
        examples=["user.created", "ticket.*", "*"],
    ),
]
OptionalText = Annotated[Text | None, BeforeValidator(empty_is_none)]
Description = Annotated[
    Annotated[
        _Storable,
        Field(
            max_length=MAX_DESCRIPTION,
            json_schema_extra={"pattern": f"^(?:[^{CONTROLS}]|[\\t\\n\\r])*$"},
        ),
    ]
    | None,
    BeforeValidator(empty_is_none),
    AfterValidator(_description),
]
Secret = Annotated[Text, Field(max_length=MAX_SECRET), AfterValidator(_usable_secret)]
OptionalSecret = Annotated[Secret | None, BeforeValidator(empty_is_none)]
TimeoutSeconds = Annotated[
    int,
    Field(ge=1, le=120, description="Time limit of one delivery attempt."),
    BeforeValidator(_no_flag),
]
MaxConcurrency = Annotated[
    int,
    Field(ge=1, le=1000, description="Maximum number of concurrent attempts per bridge process."),
    BeforeValidator(_no_flag),
]
Filter = Annotated[
    _Storable,
    Field(
        json_schema_extra={"format": "jsonpath"},
        # bridge.filter_problem() in the database knows what is allowed.
        description=(
            "A condition on the payload in PostgreSQL's jsonpath: only events for which it is true "
            "are delivered. An evaluation error counts as false. It compares paths with constants "
            "(`==`, `!=`, `<`, `<=`, `>`, `>=`, `starts with`) or has `exists(…)`, joined by `&&`, "
            "`||` and `!`. At most 2000 characters and, unless it is `strict`, five comparisons."
        ),
        examples=["$.amount_kopeks >= 100000"],
    ),
]
OptionalFilter = Annotated[Filter | None, BeforeValidator(empty_is_none)]
RatePerSecond = Annotated[
    float,
    Field(
        ge=0.001,
        le=100_000,
        allow_inf_nan=False,
        description="Maximum number of attempts per second, over all bridge processes.",
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
            "Seconds to wait before each attempt, including the first. Default: the schedule of "
            "the bridge."
        ),
    ),
]
DeliveryStatus = Literal["pending", "success", "failed"]

# Numbers as PostgreSQL stores them.
Id = Annotated[int, Field(json_schema_extra={"format": "int64"})]
Count = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]


def example(**fields: Any) -> ConfigDict:
    """Return a model's configuration with an example body."""
    return ConfigDict(json_schema_extra={"examples": [fields]})
