"""The figures of a bridge at work: how fast, how late, how much waits, and how that was of late.

Made of the rows of ``sql/queries/overview.sql``, ``running_bridges.sql`` and ``activity.sql``. They
are mappings, as either driver returns them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args

from bridge.telemetry.histogram import add_counts, quantile

Row = Mapping[str, Any]

#: Queues are counted up to here.
COUNTED: Final = 10_000
WebhookState = Literal["delivering", "failing", "paused", "disabled", "off"]
WEBHOOK_STATES: Final[tuple[WebhookState, ...]] = get_args(WebhookState)


@dataclass(frozen=True, slots=True)
class Counted:
    """How many there are, as far as they were counted.

    Attributes:
        count: at most ``COUNTED``.
        more: there are more than that.
    """

    count: int
    more: bool

    @classmethod
    def of(cls, count: int) -> Counted:
        """Return what a query that counts one further has found."""
        return cls(min(count, COUNTED), count > COUNTED)


@dataclass(frozen=True, slots=True)
class Outbox:
    """Captured events that are not drained.

    Attributes:
        oldest_seconds: since the oldest was captured; None: there is none.
    """

    count: int
    more: bool
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True)
class DeliveryQueue:
    """Deliveries that are not finished; each is in one of the four states.

    Attributes:
        due: could be sent now.
        scheduled: wait for their time: the next try, or the time that somebody chose.
        in_flight: a bridge holds them, as the running bridges told within the last seconds.
        held: of webhooks that are paused, switched off, or left alone because they fail.
        oldest_due_seconds: how long the oldest has been due; None: nothing is.
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
        alive: a session holds the drainer's lock.
        pid: of that session of PostgreSQL.
        bridge: host:pid; None: none has drained yet.
        leading_seconds: since it began to.
    """

    alive: bool
    pid: int | None
    bridge: str | None
    leading_seconds: float | None


@dataclass(frozen=True, slots=True)
class Doorbell:
    """Whether commits ring.

    Attributes:
        mode: adaptive, notify or poll; None: none has drained yet.
        rings: None where it cannot be seen.
        switches: how often the drainer has switched it.
        switched_seconds: since it did so last, or set it.
    """

    mode: str | None
    rings: bool | None
    switches: int | None
    switched_seconds: float | None


@dataclass(frozen=True, slots=True)
class RunningBridge:
    """A process that runs.

    Attributes:
        bridge: host:pid.
        version: of pgbridge.
        clients: WebSocket clients.
        in_flight: deliveries that it holds.
        told_seconds: how long ago it told of itself, which is every ten seconds.
    """

    bridge: str
    version: str
    clients: int
    in_flight: int
    told_seconds: float


@dataclass(frozen=True, slots=True)
class Rates:
    """What the running bridges do a second, over the last minute that each has told of."""

    events_per_second: float
    streamed_per_second: float
    deliveries_per_second: float
    attempts_per_second: float


@dataclass(frozen=True, slots=True)
class SuccessRate:
    """Shares from 0 to 1, over all points; None where nothing has ended.

    Attributes:
        deliveries: of the deliveries that are finished, those that succeeded.
        attempts: of the attempts that have ended, those that succeeded.
    """

    deliveries: float | None
    attempts: float | None


@dataclass(frozen=True, slots=True)
class Delay:
    """How long something took, half of the times at most and 19 of 20 times; None: nothing did."""

    p50_seconds: float | None
    p95_seconds: float | None

    @classmethod
    def of(cls, counts: Sequence[int]) -> Delay:
        """Return it of the counts of a histogram."""
        return cls(quantile(0.5, counts), quantile(0.95, counts))


@dataclass(frozen=True, slots=True)
class Point:
    """What all bridges did together within ``point_seconds`` from a time on.

    Attributes:
        at: when it begins.
        bridges: that told of themselves; 0: nobody ran, or the database was away.
        clients: that were connected, as each bridge told last.
        clients_dropped: that the bridges sent away or gave up.
        events: drained.
        streamed: handed to clients; one event to ten clients is ten.
        delivered: attempts that succeeded.
        retried: attempts that failed, and another one follows.
        failed: attempts that failed, and with which the delivery was given up.
        commit_to_client: from the capture of an event to when clients were sent it.
        commit_to_acknowledged: from the commit of an event to a receiver's 2xx.
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
    """Where everything stands, and how it went.

    Attributes:
        at: when the database was asked, by its own clock.
        rates: of the last minute.
        success_rate: over all points, as are the two delays.
        webhooks: how many there are in each of ``WEBHOOK_STATES``, as ``webhook_health`` has them.
        bridges: those that run.
        points: the oldest first; the last is not over yet.
    """

    at: datetime
    rates: Rates
    success_rate: SuccessRate
    commit_to_client: Delay
    commit_to_acknowledged: Delay
    outbox: Outbox
    delivery_queue: DeliveryQueue
    webhooks: Mapping[str, int]
    drainer: Drainer
    doorbell: Doorbell
    bridges: Sequence[RunningBridge]
    last_event: LastEvent | None
    points: Sequence[Point]

    @property
    def point_seconds(self) -> float | None:
        """How long a point is; None if there are not two."""
        if len(self.points) < 2:
            return None
        return (self.points[1].at - self.points[0].at).total_seconds()

    def to_json(self) -> dict[str, Any]:
        """Return it for JSON: the names of the attributes, and times in ISO 8601.

        Units stand in the names (``_seconds``, ``_per_second``); shares are from 0 to 1; what is
        not known is null. ``point_seconds`` is how long a point is.
        """
        told: dict[str, Any] = _plain(asdict(self))
        return told | {"point_seconds": self.point_seconds}


def overview(state: Row, bridges: Iterable[Row], activity: Iterable[Row]) -> Overview:
    """Make the figures.

    Args:
        state: the row of ``overview.sql``.
        bridges: the rows of ``running_bridges.sql``.
        activity: the rows of ``activity.sql``; they are as many minutes, and as many seconds a
            point, as that was asked for.
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
        outbox=Outbox(
            **asdict(Counted.of(state["outbox_count"])),
            oldest_seconds=state["outbox_oldest_seconds"],
        ),
        delivery_queue=DeliveryQueue(
            due=Counted.of(state["due_count"]),
            scheduled=Counted.of(state["scheduled_count"]),
            in_flight=Counted.of(sum(row["in_flight"] for row in bridges)),
            held=Counted.of(state["held_count"]),
            oldest_due_seconds=state["oldest_due_seconds"],
        ),
        webhooks={name: state[f"webhooks_{name}"] for name in WEBHOOK_STATES},
        drainer=Drainer(
            alive=state["drainer_pid"] is not None,
            pid=state["drainer_pid"],
            bridge=state["drainer"],
            leading_seconds=state["leading_seconds"],
        ),
        doorbell=Doorbell(
            mode=state["doorbell_mode"],
            rings=state["rings"],
            switches=state["switches"],
            switched_seconds=state["switched_seconds"],
        ),
        bridges=[
            RunningBridge(
                bridge=row["bridge"],
                version=row["version"],
                clients=row["clients"],
                in_flight=row["in_flight"],
                told_seconds=row["told_seconds"],
            )
            for row in bridges
        ],
        last_event=None
        if state["last_event_id"] is None
        else LastEvent(state["last_event_id"], state["last_event_occurred_at"]),
        points=[_point(row) for row in activity],
    )


def _point(row: Row) -> Point:
    return Point(
        at=row["at"],
        bridges=row["bridges"],
        clients=row["clients"],
        clients_dropped=row["clients_dropped"],
        events=row["events_drained"],
        streamed=row["events_streamed"],
        delivered=row["delivered"],
        retried=row["retried"],
        failed=row["failed"],
        commit_to_client=Delay.of(row["commit_to_client"]),
        commit_to_acknowledged=Delay.of(row["commit_to_acknowledged"]),
    )


def _rate(bridges: Iterable[Row], name: str) -> float:
    """Return how many a second there were: what each bridge counted, by the time it tells of."""
    return float(sum(row[name] / row["covered_seconds"] for row in bridges))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.isoformat() if isinstance(value, datetime) else value
