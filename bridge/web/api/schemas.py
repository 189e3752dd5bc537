"""What the API takes and gives, as the dashboards of the contract send and read it."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from bridge.events import readable_payload
from bridge.web.api.fields import (
    Count,
    DeliveryStatus,
    EventType,
    Flag,
    Id,
    MaxConcurrency,
    Moment,
    Name,
    OptionalFilter,
    OptionalSecret,
    OptionalText,
    RatePerSecond,
    RetrySchedule,
    Secret,
    TimeoutSeconds,
    Url,
    example,
)


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
    return readable_payload(payload) if isinstance(payload, str) else payload


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
    """Whether the bridge does its work, which part does not, and what is wrong with that."""

    status: Literal["ready", "not ready"]
    checks: dict[str, bool]
    reasons: dict[str, str]
