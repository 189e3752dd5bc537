"""What the API takes and gives, as the dashboards of the contract send and read it."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

import httpx
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
)

from bridge.events import PATTERN, parse_payload
from bridge.secrets import secret_problem

#: Largest id that PostgreSQL can hold.
MAX_BIGINT = 2**63 - 1

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


def _empty_is_none(value: Any) -> Any:
    """Read the empty field of a form as nothing given."""
    return None if value == "" else value


def _huge_is_zero(value: Any) -> Any:
    """Turn more digits than any id has into an id that no row has: it is not found, not refused."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{20,}", value):
        return 0
    return value


Text = Annotated[str, AfterValidator(_storable)]
Name = Annotated[Text, Field(min_length=1, max_length=255)]
Url = Annotated[
    Text,
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
    int, Field(ge=1, le=120, description="Deadline of one whole delivery attempt.")
]
MaxConcurrency = Annotated[
    int, Field(ge=1, le=1000, description="Most attempts that one bridge has in flight to it.")
]
DeliveryStatus = Literal["pending", "success", "failed"]

# Parameters of requests.
WebhookId = Annotated[int, BeforeValidator(_huge_is_zero)]
Limit = Annotated[int, Field(ge=1, le=200)]
Offset = Annotated[int, Field(ge=0, le=MAX_BIGINT)]
OptionalFlag = Annotated[bool | None, BeforeValidator(_empty_is_none)]
OptionalStatus = Annotated[DeliveryStatus | None, BeforeValidator(_empty_is_none)]


class NewWebhook(BaseModel):
    """A webhook to create. Fields that only the bridge writes are ignored, and so are others."""

    name: Name
    url: Url
    event_type: EventType
    secret: OptionalSecret = Field(
        default=None, description="Key of the signatures, never shown again. Empty: none."
    )
    generate_secret: bool = Field(
        default=False, description="Make a secret, and show it in the answer to this request alone."
    )
    description: OptionalText = None
    is_active: bool = True
    timeout_seconds: TimeoutSeconds = 15
    max_concurrency: MaxConcurrency = 4

    @field_validator("generate_secret")
    @classmethod
    def _one_secret(cls, generate_secret: bool, info: ValidationInfo) -> bool:
        if generate_secret and info.data.get("secret") is not None:
            raise ValueError("cannot be asked for beside a secret")
        return generate_secret


class WebhookChanges(BaseModel):
    """Changes to a webhook. What is missing stays as it is, and so does what is null.

    Only ``secret`` and ``description`` can be removed, with null.
    """

    name: Name | None = None
    url: Url | None = None
    event_type: EventType | None = None
    secret: Secret | None = Field(
        default=None,
        description="Replaces it at once, and the one before a rotation, too. Null removes it; "
        "empty or missing leaves it as it is.",
    )
    description: OptionalText = Field(default=None, description="Null or empty removes it.")
    is_active: bool | None = None
    timeout_seconds: TimeoutSeconds | None = None
    max_concurrency: MaxConcurrency | None = None

    def columns(self) -> dict[str, object]:
        """Return the columns to change, with their new values."""
        given = self.model_dump(exclude_unset=True)
        if given.get("secret") == "":
            del given["secret"]
        return {
            name: value
            for name, value in given.items()
            if value is not None or name in ("secret", "description")
        }


class Webhook(BaseModel):
    """A webhook. Its secret is never shown."""

    id: int
    name: str
    url: str
    event_type: str
    is_active: bool
    description: str | None
    disabled_reason: str | None = Field(
        description="Why the bridge switched it off; null if it did not."
    )
    timeout_seconds: int
    max_concurrency: int
    created_at: datetime
    updated_at: datetime
    last_triggered_at: datetime | None
    failure_count: int
    success_count: int


class CreatedWebhook(Webhook):
    """A webhook as it is answered once, when it is created."""

    secret: str | None = Field(
        default=None, description="The secret that was made, if one was asked for; else missing."
    )


class SecretRotation(BaseModel):
    """A webhook's next secret."""

    secret: OptionalSecret = Field(default=None, description="Missing, null or empty: one is made.")


class RotatedSecret(BaseModel):
    """What became of a webhook's secrets."""

    secret: str | None = Field(
        description="The secret that was made, never shown again; null if it was given."
    )
    previous_secret_expires_at: datetime | None = Field(
        description="Until when requests are signed with the old secret as well; null: there was "
        "none."
    )


class WebhookList(BaseModel):
    """A page of webhooks, newest first."""

    items: list[Webhook]
    total: int = Field(description="How many there are on all pages.")
    limit: int
    offset: int


class WebhookStats(BaseModel):
    """How many webhooks and deliveries there are."""

    total_webhooks: int
    active_webhooks: int
    total_deliveries: int
    successful_deliveries: int
    failed_deliveries: int
    success_rate: float = Field(description="Successful deliveries in percent of all.")


def _parsed(payload: Any) -> Any:
    """Parse a payload as PostgreSQL gives it: as JSON text."""
    return parse_payload(payload) if isinstance(payload, str) else payload


class Delivery(BaseModel):
    """A delivery of one event to one webhook."""

    id: int
    webhook_id: int
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
    total: int = Field(description="How many there are on all pages.")
    limit: int
    offset: int


class Problem(BaseModel):
    """What was wrong with a request."""

    detail: str


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether the bridge does its work, and which part does not."""

    status: Literal["ready", "not ready"]
    checks: dict[str, bool]
