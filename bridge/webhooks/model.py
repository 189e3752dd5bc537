"""Webhooks and deliveries as REST, the console and the command line accept and show them."""

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
from bridge.operations.overview import WebhookState
from bridge.webhooks.body import Body
from bridge.webhooks.fields import (
    Count,
    DeliveryStatus,
    Description,
    EventType,
    Flag,
    Id,
    MaxConcurrency,
    Moment,
    Name,
    OptionalFilter,
    OptionalSecret,
    RatePerSecond,
    RetrySchedule,
    Secret,
    TimeoutSeconds,
    Url,
    example,
)


class Webhook(BaseModel):
    """A webhook. Its secret is never shown."""

    id: Id
    name: str = Field(examples=["crm"])
    url: str = Field(examples=["https://crm.example/hook"], json_schema_extra={"format": "uri"})
    event_type: str = Field(examples=["ticket.*"])
    is_active: bool
    description: str | None
    disabled_reason: str | None = Field(
        description="Why the bridge disabled the webhook; null if it did not."
    )
    timeout_seconds: int
    max_concurrency: int
    filter: str | None = Field(description="As PostgreSQL formats it.")
    rate_per_second: float | None
    ordered: bool
    retry_schedule: list[float] | None
    paused_at: datetime | None = Field(
        description="When the webhook was paused; null if it is not."
    )
    failing_since: datetime | None = Field(
        description="Start of the first failed attempt since the last success."
    )
    probe_at: datetime | None = Field(
        description="While the circuit breaker is open: when the next delivery is tried."
    )
    created_at: datetime
    updated_at: datetime
    last_triggered_at: datetime | None
    failure_count: Count
    success_count: Count


class SavedWebhook(Webhook):
    """A webhook that was created or changed."""

    warnings: list[str] = Field(
        default=[],
        description="What is probably a mistake, such as an event type that no rule captures; "
        "missing if there is nothing.",
    )


class CreatedWebhook(SavedWebhook):
    """A new webhook, with its secret if that was generated."""

    secret: str | None = Field(
        default=None, repr=False, description="The generated secret; missing if none was requested."
    )


#: Fields of a response that clients may send back.
_SHOWN = frozenset(CreatedWebhook.model_fields)


class NewWebhook(Body):
    """A webhook to create. Read-only fields are ignored."""

    read_only = _SHOWN
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "crm",
                    "url": "https://crm.example/hook",
                    "event_type": "payment.completed",
                    "generate_secret": True,
                }
            ],
            # A secret is either given or generated.
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
        description="Signing key; never shown again. Empty: requests are not signed.",
    )
    generate_secret: Flag = Field(
        default=False,
        description="Generate a secret; only the response to this request contains it.",
    )
    description: Description = None
    is_active: bool = True
    timeout_seconds: TimeoutSeconds = 15
    max_concurrency: MaxConcurrency = 4
    filter: OptionalFilter = None
    rate_per_second: RatePerSecond | None = None
    ordered: Flag = Field(
        default=False, description="Send one delivery at a time, in the order of the events."
    )
    retry_schedule: RetrySchedule | None = None

    @field_validator("generate_secret")
    @classmethod
    def _one_secret(cls, generate_secret: bool, info: ValidationInfo) -> bool:
        if generate_secret and info.data.get("secret") is not None:
            raise ValueError("must not be true if a secret is given")
        return generate_secret


#: Fields of a webhook that null removes.
REMOVABLE = ("secret", "description", "filter", "rate_per_second", "retry_schedule")


class WebhookChanges(Body):
    """Changes to a webhook. Missing fields stay as they are, and so do fields that are null.

    Null removes only the optional fields of a webhook (``REMOVABLE``). Read-only ones are ignored.
    """

    read_only = _SHOWN
    model_config = example(event_type="ticket.*", is_active=True, description=None)

    name: Name | None = None
    url: Url | None = None
    event_type: EventType | None = None
    secret: Secret | None = Field(
        default=None,
        repr=False,
        description="Replaces the secret at once, including the previous one of a rotation. Null "
        "removes it; empty or missing keeps it. Required if the scheme, host or port of `url` "
        "changes and requests are signed.",
    )
    description: Description = Field(default=None, description="Null or empty removes it.")
    is_active: bool | None = None
    timeout_seconds: TimeoutSeconds | None = None
    max_concurrency: MaxConcurrency | None = None
    filter: OptionalFilter = Field(default=None, description="Null or empty removes it.")
    rate_per_second: RatePerSecond | None = Field(default=None, description="Null removes it.")
    ordered: Flag | None = None
    retry_schedule: RetrySchedule | None = Field(default=None, description="Null removes it.")

    def columns(self) -> dict[str, object]:
        """Return the columns to change and their new values."""
        given = self.model_dump(exclude_unset=True)
        if given.get("secret") == "":
            del given["secret"]
        return {
            name: value for name, value in given.items() if value is not None or name in REMOVABLE
        }


class SecretRotation(Body):
    """A webhook's next secret."""

    model_config = example(secret="the-next-secret")  # noqa: S106 - an example

    secret: OptionalSecret = Field(
        default=None, repr=False, description="Missing, null or empty: a secret is generated."
    )


class RotatedSecret(BaseModel):
    """The result of a rotation."""

    secret: str | None = Field(
        repr=False,
        description="The generated secret, never shown again; null if the request contained one.",
    )
    previous_secret_expires_at: datetime | None = Field(
        description="Until when requests are also signed with the previous secret; null if the "
        "webhook had no secret."
    )


class WebhookList(BaseModel):
    """A page of webhooks, newest first."""

    items: list[Webhook]
    total: Count = Field(description="Number of webhooks on all pages.")
    limit: int
    offset: Count


class WebhookStats(BaseModel):
    """How many webhooks and deliveries there are."""

    total_webhooks: Count
    active_webhooks: Count
    total_deliveries: Count = Field(
        description="Including pending ones. If more than 10,000 are pending, an estimate."
    )
    successful_deliveries: Count
    failed_deliveries: Count
    success_rate: float = Field(description="Successful deliveries as a percentage of all.")


class WebhookHealth(BaseModel):
    """A webhook's state, backlog and recent attempts. Rates are percentages, times seconds."""

    webhook_id: Id
    name: str
    state: WebhookState
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


class Redelivery(Body):
    """A range of failed deliveries to send again, by the time at which they failed."""

    model_config = example(
        since="2026-01-15T10:00:00Z", until="2026-01-15T12:00:00Z", dry_run=False, per_second=20
    )

    since: Moment = Field(description="Start of the range; UTC if it has no zone.")
    until: Moment | None = Field(default=None, description="End of the range, exclusive.")
    dry_run: Flag = Field(default=True, description="Only count the deliveries.")
    per_second: RatePerSecond = Field(default=20.0, description="Deliveries to send per second.")


class RedeliveryCount(BaseModel):
    """How many deliveries are sent again or, in a dry run, would be."""

    count: Count
    dry_run: bool


class RedeliveryProgress(BaseModel):
    """The last redelivery of a webhook by time range."""

    webhook_id: Id
    state: Literal["running", "finished", "cancelled"]
    since: datetime
    until: datetime
    per_second: float
    matched: Count = Field(description="Deliveries to send again, counted at the start.")
    requeued: Count = Field(description="Deliveries put back into the queue so far.")
    created_at: datetime
    finished_at: datetime | None
    cancelled_at: datetime | None


def _parsed(payload: Any) -> Any:
    """Parse a payload that comes from PostgreSQL as JSON text."""
    return readable_payload(payload) if isinstance(payload, str) else payload


class Delivery(BaseModel):
    """A delivery of one event to one webhook."""

    id: Id
    webhook_id: Id
    event_type: str
    payload: Annotated[Any, BeforeValidator(_parsed)] = Field(
        description="The body; null if the event is no longer in the log, or omitted."
    )
    payload_omitted: bool = Field(
        description="The payload is missing because the payloads of the list exceed 256 KiB; "
        "`GET /deliveries/{delivery_id}` has it."
    )
    response_status: int | None
    response_body: str | None = Field(description="First 16 KiB of the last response.")
    status: DeliveryStatus
    error_message: str | None
    attempt_number: int = Field(description="Number of attempts so far.")
    created_at: datetime
    delivered_at: datetime | None
    next_retry_at: datetime | None


class DeliveryList(BaseModel):
    """A page of a webhook's deliveries, newest first."""

    items: list[Delivery]
    total: Count = Field(description="Number of deliveries on all pages.")
    limit: int
    offset: Count
    next_before_id: Id | None = Field(
        description="The `before_id` of the next page; null on the last page."
    )


class Attempt(BaseModel):
    """One HTTP attempt of a delivery."""

    number: int
    started_at: datetime
    finished_at: datetime
    response_status: int | None
    response_body: str | None = Field(description="First 16 KiB of the response.")
    failure: str | None = Field(description="Kind of failure; null if the attempt succeeded.")
    error_message: str | None


class DeliveryDetail(Delivery):
    """A delivery with its timestamps and its attempts."""

    event_id: Id
    committed_at: datetime | None = Field(
        description="When the application committed; captured_at if commits are not tracked."
    )
    captured_at: datetime | None = Field(description="When the trigger fired.")
    claimed_at: datetime | None = Field(description="When a bridge last claimed the delivery.")
    sent_at: datetime | None = Field(description="When the last attempt started.")
    acknowledged_at: datetime | None = Field(description="When the 2xx response was received.")
    attempts: list[Attempt] = Field(description="The latest 200.")
