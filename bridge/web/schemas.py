"""What the API takes and gives, as the dashboards of the contract send and read it."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import httpx
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from bridge.events import PATTERN, parse_payload
from bridge.secrets import secret_problem

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


class NewWebhook(BaseModel):
    """A webhook to create. Fields that only the bridge writes are ignored, and so are others."""

    model_config = ConfigDict(
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [
                {
                    "name": "crm",
                    "url": "https://crm.example/hook",
                    "event_type": "payment.completed",
                    "generate_secret": True,
                }
            ],
            # A secret is given or asked for, and not both.
            "not": {
                "required": ["generate_secret", "secret"],
                "properties": {
                    "generate_secret": {"const": True},
                    "secret": {"type": "string", "minLength": 1},
                },
            },
        },
    )

    name: Name
    url: Url
    event_type: EventType
    secret: OptionalSecret = Field(
        default=None,
        repr=False,
        description="Key of the signatures, never shown again. Empty: none.",
    )
    generate_secret: Flag = Field(
        default=False, description="Make a secret, and show it in the answer to this request alone."
    )
    description: OptionalText = None
    is_active: bool = True
    timeout_seconds: TimeoutSeconds = 15
    max_concurrency: MaxConcurrency = 4
    filter: OptionalFilter = None
    rate_per_second: RatePerSecond | None = None
    ordered: Flag = Field(
        default=False, description="One attempt at a time, in the order of the events."
    )
    retry_schedule: RetrySchedule | None = None

    @field_validator("generate_secret")
    @classmethod
    def _one_secret(cls, generate_secret: bool, info: ValidationInfo) -> bool:
        if generate_secret and info.data.get("secret") is not None:
            raise ValueError("cannot be asked for beside a secret")
        return generate_secret


#: Fields of a webhook that null removes.
REMOVABLE = ("secret", "description", "filter", "rate_per_second", "retry_schedule")


class WebhookChanges(BaseModel):
    """Changes to a webhook. What is missing stays as it is, and so does what is null.

    Only what a webhook need not have (``REMOVABLE``) can be removed, with null.
    """

    model_config = example(event_type="ticket.*", is_active=True, description=None)

    name: Name | None = None
    url: Url | None = None
    event_type: EventType | None = None
    secret: Secret | None = Field(
        default=None,
        repr=False,
        description="Replaces it at once, and the one before a rotation, too. Null removes it; "
        "empty or missing leaves it as it is.",
    )
    description: OptionalText = Field(default=None, description="Null or empty removes it.")
    is_active: bool | None = None
    timeout_seconds: TimeoutSeconds | None = None
    max_concurrency: MaxConcurrency | None = None
    filter: OptionalFilter = Field(default=None, description="Null or empty removes it.")
    rate_per_second: RatePerSecond | None = Field(default=None, description="Null removes it.")
    ordered: Flag | None = None
    retry_schedule: RetrySchedule | None = Field(default=None, description="Null removes it.")

    def columns(self) -> dict[str, object]:
        """Return the columns to change, with their new values."""
        given = self.model_dump(exclude_unset=True)
        if given.get("secret") == "":
            del given["secret"]
        return {
            name: value for name, value in given.items() if value is not None or name in REMOVABLE
        }


class Webhook(BaseModel):
    """A webhook. Its secret is never shown."""

    id: Id
    name: str = Field(examples=["crm"])
    url: str = Field(examples=["https://crm.example/hook"], json_schema_extra={"format": "uri"})
    event_type: str = Field(examples=["ticket.*"])
    is_active: bool
    description: str | None
    disabled_reason: str | None = Field(
        description="Why the bridge switched it off; null if it did not."
    )
    timeout_seconds: int
    max_concurrency: int
    filter: str | None = Field(description="As PostgreSQL writes it.")
    rate_per_second: float | None
    ordered: bool
    retry_schedule: list[float] | None
    paused_at: datetime | None = Field(
        description="Since when its deliveries wait; null: they do not."
    )
    failing_since: datetime | None = Field(
        description="Start of the first failed attempt since the last success."
    )
    probe_at: datetime | None = Field(
        description="If it mostly fails: when one delivery is tried; the others wait."
    )
    created_at: datetime
    updated_at: datetime
    last_triggered_at: datetime | None
    failure_count: Count
    success_count: Count


class CreatedWebhook(Webhook):
    """A webhook as it is answered once, when it is created."""

    secret: str | None = Field(
        default=None,
        repr=False,
        description="The secret that was made, if one was asked for; else missing.",
    )


class SecretRotation(BaseModel):
    """A webhook's next secret."""

    model_config = example(secret="the-next-secret")  # noqa: S106 - an example

    secret: OptionalSecret = Field(
        default=None, repr=False, description="Missing, null or empty: one is made."
    )


class RotatedSecret(BaseModel):
    """What became of a webhook's secrets."""

    secret: str | None = Field(
        repr=False, description="The secret that was made, never shown again; null if it was given."
    )
    previous_secret_expires_at: datetime | None = Field(
        description="Until when requests are signed with the old secret as well; null: there was "
        "none."
    )


class WebhookList(BaseModel):
    """A page of webhooks, newest first."""

    items: list[Webhook]
    total: Count = Field(description="How many there are on all pages.")
    limit: int
    offset: Count


class WebhookTrial(BaseModel):
    """What came of a test that was sent to a webhook's receiver."""

    response_status: int | None
    response_body: str | None = Field(description="First 16 KiB of the answer.")
    error_message: str | None = Field(description="Null if the receiver took it.")
    seconds: float = Field(description="From connecting to the end of the answer.")


class WebhookStats(BaseModel):
    """How many webhooks and deliveries there are."""

    total_webhooks: Count
    active_webhooks: Count
    total_deliveries: Count
    successful_deliveries: Count
    failed_deliveries: Count
    success_rate: float = Field(description="Successful deliveries in percent of all.")


def _parsed(payload: Any) -> Any:
    """Parse a payload as PostgreSQL gives it: as JSON text."""
    return parse_payload(payload) if isinstance(payload, str) else payload


class Delivery(BaseModel):
    """A delivery of one event to one webhook."""

    id: Id
    webhook_id: Id
    event_type: str
    payload: Annotated[Any, BeforeValidator(_parsed)] = Field(
        description="What was sent; null when the event is no longer in the log."
    )
    response_status: int | None
    response_body: str | None = Field(description="First 16 KiB of the last answer.")
    status: DeliveryStatus
    error_message: str | None
    attempt_number: int = Field(description="Attempts made so far.")
    created_at: datetime
    delivered_at: datetime | None
    next_retry_at: datetime | None


class DeliveryList(BaseModel):
    """A page of a webhook's deliveries, newest first."""

    items: list[Delivery]
    total: Count = Field(description="How many there are on all pages.")
    limit: int
    offset: Count
    next_before_id: Id | None = Field(
        description="The next page is the one with this `before_id`; null: this is the last."
    )


class Attempt(BaseModel):
    """One HTTP attempt of a delivery."""

    number: int
    started_at: datetime
    finished_at: datetime
    response_status: int | None
    response_body: str | None = Field(description="First 16 KiB of the answer.")
    failure: str | None = Field(description="What kind of failure; null if it succeeded.")
    error_message: str | None


class DeliveryDetail(Delivery):
    """A delivery with the times of its way, and its attempts."""

    event_id: Id
    committed_at: datetime | None = Field(
        description="When the application committed; captured_at where that is not tracked."
    )
    captured_at: datetime | None = Field(description="When the trigger fired.")
    claimed_at: datetime | None = Field(description="When a courier took it, the last time.")
    sent_at: datetime | None = Field(description="When the last attempt began.")
    acknowledged_at: datetime | None = Field(description="When the receiver's 2xx had arrived.")
    attempts: list[Attempt]


class Redelivery(BaseModel):
    """Which failed deliveries to send again, by the time at which they were given up."""

    model_config = example(
        since="2026-01-15T10:00:00Z", until="2026-01-15T12:00:00Z", dry_run=False, per_second=20
    )

    since: Moment = Field(description="From then on; without a zone, UTC.")
    until: Moment | None = Field(default=None, description="Before then.")
    dry_run: Flag = Field(default=True, description="Only count them.")
    per_second: RatePerSecond = Field(default=20.0, description="How many a second.")


class RedeliveryCount(BaseModel):
    """How many deliveries are sent again, or would be."""

    count: Count
    dry_run: bool


class WebhookHealth(BaseModel):
    """How a webhook does. Rates are percent of attempts, times are seconds."""

    webhook_id: Id
    name: str
    state: Literal["delivering", "failing", "paused", "disabled", "off"]
    disabled_reason: str | None
    failing_since: datetime | None
    probe_at: datetime | None
    failure_share: float
    pending: Count
    due: Count
    oldest_pending_at: datetime | None
    oldest_pending_seconds: float | None
    attempts_hour: Count
    attempts_day: Count
    success_rate_hour: float | None
    success_rate_day: float | None
    commit_to_acknowledged_p50_hour: float | None
    commit_to_acknowledged_p95_hour: float | None
    commit_to_acknowledged_p50_day: float | None
    commit_to_acknowledged_p95_day: float | None
    answer_p50_hour: float | None
    answer_p95_hour: float | None
    answer_p50_day: float | None
    answer_p95_day: float | None


class LoggedEvent(BaseModel):
    """An event of the log, as the stream sends it."""

    id: Id
    type: str = Field(examples=["user.created"])
    payload: Any = Field(examples=[{"user_id": 7, "username": "ivan"}])
    timestamp: str = Field(
        description="When it was captured: UTC, with microseconds.",
        examples=["2026-01-15T10:30:00.123456Z"],
        json_schema_extra={"format": "date-time"},
    )


class EventList(BaseModel):
    """A page of the log, oldest first."""

    items: list[LoggedEvent]
    last_event_id: Id = Field(description="The newest event of the log, whatever its type.")
    next_since: Id | None = Field(
        description="The next page is the one with this `since`; null: there is nothing more yet."
    )
    available_from: Id | None = Field(
        description="The oldest event that is still in the log; null: it is empty."
    )


class Problem(BaseModel):
    """What was wrong with a request."""

    detail: str


# The names that FastAPI's documents give to the same, for who generates a client.
class ValidationError(BaseModel):
    """What is wrong with one place of a request."""

    type: str = Field(description="A word for what is wrong.", examples=["missing"])
    loc: list[str | int] = Field(
        description="`body`, `query`, `path` or `header`, then the way to it.",
        examples=[["body", "name"]],
    )
    msg: str = Field(examples=["Field required"])


class HTTPValidationError(BaseModel):
    """All that is wrong with a request."""

    detail: list[ValidationError]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether the bridge does its work, and which part does not."""

    status: Literal["ready", "not ready"]
    checks: dict[str, bool]
