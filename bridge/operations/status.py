"""Read the status of a bridge from its database."""

from dataclasses import asdict, dataclass
from datetime import UTC
from typing import Any

from bridge import assets
from bridge.database.sessions import Connection, fetch
from bridge.operations.formatting import format_seconds
from bridge.operations.overview import Counted, Delay, Doorbell, Overview, WaitingEvents, overview

#: The time that the overview covers, and its resolution.
OVERVIEW_MINUTES = 60
OVERVIEW_POINT_SECONDS = 60


class StatusError(Exception):
    """The status cannot be read. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a bridge and its queues.

    Attributes:
        pending_deliveries: all deliveries in the queue, whatever their state.
    """

    schema_version: int
    pending_deliveries: Counted
    overview: Overview

    def to_json(self) -> dict[str, Any]:
        """Return what ``pgbridge status --json`` prints."""
        figures = self.overview.to_json()
        return {
            "schema_version": self.schema_version,
            "drainer": figures["drainer"],
            "doorbell": figures["doorbell"],
            "outbox": figures["outbox"],
            "delivery_queue": asdict(self.pending_deliveries),
            "last_event": figures["last_event"],
            "blind_rules": figures["blind_rules"],
            "overview": figures,
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return what ``pgbridge status`` prints, as names and values."""
        figures = self.overview
        drainer = figures.drainer
        draining = "no bridge; start one: pgbridge run"
        if drainer.alive:
            draining = str(drainer)
            if drainer.leading_seconds is not None:
                draining += f", for {format_seconds(drainer.leading_seconds)}"
        elif drainer.bridge is not None:
            draining = f"no bridge; the last was {drainer}"
        last_event = "none"
        if figures.last_event is not None:
            occurred_at = figures.last_event.occurred_at.astimezone(UTC)
            last_event = f"{figures.last_event.id}, at {occurred_at:%Y-%m-%d %H:%M:%S} UTC"
        return [
            ("schema version", str(self.schema_version)),
            ("draining", draining),
            ("doorbell", format_doorbell(figures.doorbell)),
            ("outbox", format_events(figures.outbox)),
            ("delivery queue", str(self.pending_deliveries)),
            *self._unusual(),
            ("last event", last_event),
            *self._blind(),
            *_format_activity(figures),
        ]

    def _unusual(self) -> list[tuple[str, str]]:
        """Return lines about unqueued events and dead letters, which are rare."""
        deferred, letters = self.overview.deferred, self.overview.dead_letters
        lines = []
        if deferred.count:
            lines.append(("events not queued yet", format_events(deferred)))
        if letters.oldest_seconds is not None:
            age = format_seconds(letters.oldest_seconds)
            text = f"{letters}, the oldest set aside {age} ago; see: pgbridge dead-letters list"
            lines.append(("dead letters", text))
        return lines

    def _blind(self) -> list[tuple[str, str]]:
        """Return a line about each rule that captures nothing."""
        return [
            ("captures nothing", f"{rule.name}: {rule.words}; run: pgbridge doctor")
            for rule in self.overview.blind_rules
        ]


def read_status(
    connection: Connection,
    *,
    minutes: int = OVERVIEW_MINUTES,
    point_seconds: int = OVERVIEW_POINT_SECONDS,
) -> Status:
    """Read the status.

    Args:
        minutes: the time that the overview covers.
        point_seconds: the length of its points.

    Raises:
        StatusError: the schema belongs to another version of pgbridge.
    """
    [schema] = fetch(connection, "schema_version")
    if mismatch := assets.schema_mismatch(schema["version"]):
        raise StatusError("; ".join(mismatch))
    [state] = fetch(connection, "overview")
    return Status(
        schema_version=schema["version"],
        pending_deliveries=Counted.of(state["pending_count"]),
        overview=overview(
            state,
            fetch(connection, "running_bridges"),
            fetch(connection, "blind_rules"),
            fetch(connection, "activity", minutes, point_seconds),
        ),
    )


def format_doorbell(doorbell: Doorbell) -> str:
    """Describe the state of the doorbell and the mode of the drainer."""
    words = {True: "ringing", False: "quiet", None: "unknown"}[doorbell.rings]
    if doorbell.switched_seconds is not None:
        words += (
            f", mode {doorbell.mode}, switched {doorbell.switches} times, "
            f"set {format_seconds(doorbell.switched_seconds)} ago"
        )
    return words


def format_events(events: WaitingEvents) -> str:
    """Describe the number of waiting events and the age of the oldest."""
    words = str(events)
    if events.oldest_seconds is not None:
        words += f", the oldest captured {format_seconds(events.oldest_seconds)} ago"
    return words


def _format_activity(figures: Overview) -> list[tuple[str, str]]:
    clients = sum(each.clients for each in figures.bridges)
    rates, success = figures.rates, figures.success_rate
    events = f"{rates.events_per_second:.1f} events/s"
    deliveries = f"{rates.deliveries_per_second:.1f} deliveries/s"
    if success.deliveries is not None:
        deliveries += f"; {success.deliveries:.2%} succeeded in the last hour"
    return [
        ("bridges", f"{len(figures.bridges)} running, with {clients} clients"),
        ("events", events + _format_delay(figures.commit_to_client)),
        ("deliveries", deliveries + _format_delay(figures.commit_to_acknowledged)),
    ]


def _format_delay(delay: Delay) -> str:
    """Return the latencies of the last hour, to append to a line."""
    if delay.p50_seconds is None or delay.p95_seconds is None:
        return ""
    p50, p95 = (f"{1000 * each:.1f} ms" for each in (delay.p50_seconds, delay.p95_seconds))
    return f"; latency since commit: median {p50}, p95 {p95}"
