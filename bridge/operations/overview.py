"""Rates, latencies, queue sizes and their recent history, for the console and ``pgbridge status``.

Built from the rows of ``overview.sql``, ``running_bridges.sql``, ``blind_rules.sql`` and
``activity.sql`` of ``sql/queries``. Rows are mappings, so either driver can fetch them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final, Literal, get_args

from bridge.capture.blindness import BlindRule
from bridge.telemetry.histogram import add_counts, quantile

Row = Mapping[str, Any]

#: Queues are counted up to this size.
COUNTED: Final = 10_000
WebhookState = Literal["delivering", "failing", "paused", "disabled", "off"]
WEBHOOK_STATES: Final[tuple[WebhookState, ...]] = get_args(WebhookState)


@dataclass(frozen=True, slots=True)
class Counted:
    """A size that is counted only up to ``COUNTED``.

    Attributes:
        count: at most ``COUNTED``.
        more: whether the size exceeds ``COUNTED``.
    """

    count: int
    more: bool

    @classmethod
    def of(cls, count: int) -> Counted:
        """Convert the result of a query that counts up to ``COUNTED + 1``."""
        return cls(min(count, COUNTED), count > COUNTED)

    def __str__(self) -> str:
        return f"more than {self.count}" if self.more else f"{self.count}"


@dataclass(frozen=True, slots=True)
class WaitingEvents(Counted):
    """Captured events that are not drained yet, drained ones that are not queued, or dead letters.

    Attributes:
        oldest_seconds: age of the oldest event, or None if there are none.
    """

    oldest_seconds: float | None

    @classmethod
    def of_state(
        cls, state: Row, where: Literal["outbox", "deferred", "dead_letters"]
    ) -> WaitingEvents:
        """Take it from the row of ``overview.sql``."""
        counted = Counted.of(state[f"{where}_count"])
        return cls(counted.count, counted.more, state[f"{where}_oldest_seconds"])


@dataclass(frozen=True, slots=True)
class DeliveryQueue:
    """Unfinished deliveries. Each is in one of four states.

    Attributes:
        due: can be sent now.
        scheduled: wait for a retry or for a chosen time.
        in_flight: leased, as last reported by the running bridges.
        held: their webhook is paused, switched off or failing.
        oldest_due_seconds: how long the oldest has been due, or None if none is.
    """

    due: Counted
    scheduled: Counted
    in_flight: Counted
    held: Counted
    oldest_due_seconds: float | None


@dataclass(frozen=True, slots=True)
class Drainer:
    """The bridge that drains, or drained last.

    Attributes:
        alive: whether a session holds the drainer's lock.
        pid: the PostgreSQL process of that session.
        bridge: ``host:pid``, or None if no bridge has drained yet.
        leading_seconds: how long it has been draining.
    """

    alive: bool
    pid: int | None
    bridge: str | None
    leading_seconds: float | None

    @classmethod
    def of(cls, state: Row) -> Drainer:
        """Take it from the row of ``overview.sql``."""
        pid = state["drainer_pid"]
        return cls(pid is not None, pid, state["drainer"], state["leading_seconds"])

    def __str__(self) -> str:
        name = self.bridge or "a bridge"
        return f"{name} (session with PID {self.pid})" if self.alive else name


@dataclass(frozen=True, slots=True)
class Doorbell:
    """Whether commits send notifications.

    Attributes:
        mode: adaptive, notify or poll, or None if no bridge has drained yet.
        rings: None if this role cannot see it.
        switches: how often the drainer has switched it.
        switched_seconds: time since the last switch.
    """

    mode: str | None
    rings: bool | None
    switches: int | None
    switched_seconds: float | None

    @classmethod
    def of(cls, state: Row) -> Doorbell:
        """Take it from the row of ``overview.sql``."""
        return cls(
            state["doorbell_mode"], state["rings"], state["switches"], state["switched_seconds"]
        )


@dataclass(frozen=True, slots=True)
class RunningBridge:
    """A running process.

    Attributes:
        bridge: ``host:pid``.
        version: the version of pgbridge.
        clients: connected WebSocket clients.
        in_flight: deliveries that it has leased.
        reported_seconds: age of its last report; reports come every ten seconds.
    """

    bridge: str
    version: str
    clients: int
    in_flight: int
    reported_seconds: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of the running bridges, over the last minute that each has reported."""

    events_per_second: float
    streamed_per_second: float
    deliveries_per_second: float
    attempts_per_second: float


@dataclass(frozen=True, slots=True)
class SuccessRate:
    """Shares from 0 to 1 over all points; None if nothing has finished.

    Attributes:
        deliveries: the share of finished deliveries that succeeded.
        attempts: the share of finished attempts that succeeded.
    """

    deliveries: float | None
    attempts: float | None


@dataclass(frozen=True, slots=True)
class Delay:
    """Percentiles of a latency; None if nothing was measured."""

    p50_seconds: float | None
    p95_seconds: float | None

    @classmethod
    def of(cls, counts: Sequence[int]) -> Delay:
        """Compute the percentiles of a histogram."""
        return cls(quantile(0.5, counts), quantile(0.95, counts))


@dataclass(frozen=True, slots=True)
class Point:
    """The activity of all bridges during ``point_seconds``.

    Attributes:
        at: the start of the point.
        bridges: bridges that reported; 0 if none ran or the database was unavailable.
        clients: connected clients, as last reported.
        clients_dropped: clients that the bridges dropped.
        events: events drained.
        streamed: events sent to clients; one event to ten clients counts as ten.
        delivered: attempts that succeeded.
        retried: failed attempts that will be retried.
        failed: failed attempts after which the delivery was given up.
        commit_to_client: from the capture of an event until it was sent to clients.
        commit_to_acknowledged: from the commit of an event until the receiver's 2xx.
    """

    at: datetime
    bridges: int
    clients: int
    clients_dropped: int
    events: int
    streamed: int
    delivered: int
    retried: int
    failed: int
    commit_to_client: Delay
    commit_to_acknowledged: Delay


@dataclass(frozen=True, slots=True)
class LastEvent:
    """The newest event of the log."""

    id: int
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Overview:
    """The current state and the recent activity of all bridges on a database.

    Attributes:
        at: the database's time of the query.
        rates: over the last minute.
        success_rate: over all points, like the two delays.
        deferred: drained events whose deliveries are not all queued yet.
        dead_letters: events and deliveries that PostgreSQL could not process.
        webhooks: number of webhooks by state, as in ``webhook_health``.
        bridges: the running bridges.
        blind_rules: the rules that capture nothing although they are not paused.
        points: oldest first; the last one is incomplete.
    """

    at: datetime
    rates: Rates
    success_rate: SuccessRate
    commit_to_client: Delay
    commit_to_acknowledged: Delay
    outbox: WaitingEvents
    deferred: WaitingEvents
    dead_letters: WaitingEvents
    delivery_queue: DeliveryQueue
    webhooks: Mapping[str, int]
    drainer: Drainer
    doorbell: Doorbell
    bridges: Sequence[RunningBridge]
    blind_rules: Sequence[BlindRule]
    last_event: LastEvent | None
    points: Sequence[Point]

    @property
    def point_seconds(self) -> float | None:
        """The length of a point; None if there are fewer than two."""
        if len(self.points) < 2:
            return None
        return (self.points[1].at - self.points[0].at).total_seconds()

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as JSON, with times in ISO 8601 and null for unknown values."""
        attributes = asdict(self) | {"point_seconds": self.point_seconds}
        converted: dict[str, Any] = json.loads(json.dumps(attributes, default=datetime.isoformat))
        return converted


def overview(
    state: Row, bridges: Iterable[Row], blind: Iterable[Row], activity: Iterable[Row]
) -> Overview:
    """Build the overview.

    Args:
        state: the row of ``overview.sql``.
        bridges: the rows of ``running_bridges.sql``.
        blind: the rows of ``blind_rules.sql``.
        activity: the rows of ``activity.sql``, whose parameters determine the points.
    """
    bridges, activity = list(bridges), list(activity)
    delivered, retried, failed = (
        sum(row[name] for row in activity) for name in ("delivered", "retried", "failed")
    )
    return Overview(
        at=state["at"],
        rates=Rates(
            events_per_second=_rate(bridges, "events_drained"),
            streamed_per_second=_rate(bridges, "events_streamed"),
            deliveries_per_second=_rate(bridges, "delivered"),
            attempts_per_second=_rate(bridges, "attempts"),
        ),
        success_rate=SuccessRate(
            deliveries=_share(delivered, delivered + failed),
            attempts=_share(delivered, delivered + retried + failed),
        ),
        commit_to_client=Delay.of(add_counts(row["commit_to_client"] for row in activity)),
        commit_to_acknowledged=Delay.of(
            add_counts(row["commit_to_acknowledged"] for row in activity)
        ),
        outbox=WaitingEvents.of_state(state, "outbox"),
        deferred=WaitingEvents.of_state(state, "deferred"),
        dead_letters=WaitingEvents.of_state(state, "dead_letters"),
        delivery_queue=DeliveryQueue(
            due=Counted.of(state["due_count"]),
            scheduled=Counted.of(state["scheduled_count"]),
            in_flight=Counted.of(sum(row["in_flight"] for row in bridges)),
            held=Counted.of(state["held_count"]),
            oldest_due_seconds=state["oldest_due_seconds"],
        ),
        webhooks={name: state[f"webhooks_{name}"] for name in WEBHOOK_STATES},
        drainer=Drainer.of(state),
        doorbell=Doorbell.of(state),
        bridges=[
            RunningBridge(**{field.name: row[field.name] for field in fields(RunningBridge)})
            for row in bridges
        ],
        blind_rules=[BlindRule.of(row) for row in blind],
        last_event=None
        if state["last_event_id"] is None
        else LastEvent(state["last_event_id"], state["last_event_occurred_at"]),
        points=[_point(row) for row in activity],
    )


def _point(row: Row) -> Point:
    delays = {name: Delay.of(row[name]) for name in ("commit_to_client", "commit_to_acknowledged")}
    return Point(**{**row, **delays})


def _rate(bridges: Iterable[Row], name: str) -> float:
    """Return the sum of the bridges' rates, each over the time that its reports cover."""
    return float(sum(row[name] / row["covered_seconds"] for row in bridges))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
