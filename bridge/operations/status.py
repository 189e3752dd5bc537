"""Read the status of a bridge from its database."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bridge import assets
from bridge.database.sessions import Connection, fetch
from bridge.operations.overview import COUNTED, Delay, Overview, overview

#: The time that the overview covers, and its resolution.
OVERVIEW_MINUTES = 60
OVERVIEW_POINT_SECONDS = 60


class StatusError(Exception):
    """The status cannot be read. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Drainer:
    """The bridge that drains, or drained last."""

    #: The session that holds the drainer's lock, or None if no bridge drains.
    pid: int | None
    #: Whether commits send notifications; None if this role cannot see it.
    rings: bool | None
    #: ``host:pid``. This and the next fields are None if no bridge has drained yet.
    bridge: str | None
    mode: str | None
    switches: int | None
    switched_seconds: float | None
    leading_seconds: float | None

    def __str__(self) -> str:
        name = self.bridge or "a bridge"
        return name if self.pid is None else f"{name} (session with PID {self.pid})"


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a bridge and its queues."""

    schema_version: int
    drainer: Drainer
    outbox_count: int
    outbox_oldest_seconds: float | None
    pending_deliveries: int
    last_event_id: int | None
    last_event_occurred_at: datetime | None
    overview: Overview

    def to_json(self) -> dict[str, Any]:
        """Return what ``pgbridge status --json`` prints."""
        drainer = self.drainer
        occurred_at = self.last_event_occurred_at
        return {
            "schema_version": self.schema_version,
            "drainer": {
                "alive": drainer.pid is not None,
                "pid": drainer.pid,
                "bridge": drainer.bridge,
                "leading_seconds": drainer.leading_seconds,
            },
            "doorbell": {
                "mode": drainer.mode,
                "rings": drainer.rings,
                "switches": drainer.switches,
                "switched_seconds": drainer.switched_seconds,
            },
            "outbox": {
                **_counted(self.outbox_count),
                "oldest_seconds": self.outbox_oldest_seconds,
            },
            "delivery_queue": _counted(self.pending_deliveries),
            "last_event": None
            if occurred_at is None
            else {"id": self.last_event_id, "occurred_at": occurred_at.isoformat()},
            "overview": self.overview.to_json(),
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return what ``pgbridge status`` prints, as names and values."""
        drainer = self.drainer
        draining = "no bridge; start one: pgbridge run"
        if drainer.pid is not None:
            draining = str(drainer)
            if drainer.leading_seconds is not None:
                draining += f", for {format_seconds(drainer.leading_seconds)}"
        elif drainer.bridge is not None:
            draining = f"no bridge; the last was {drainer}"
        outbox = format_count(self.outbox_count)
        if self.outbox_oldest_seconds is not None:
            outbox += f", the oldest captured {format_seconds(self.outbox_oldest_seconds)} ago"
        last_event = "none"
        if self.last_event_occurred_at is not None:
            occurred_at = self.last_event_occurred_at.astimezone(UTC)
            last_event = f"{self.last_event_id}, at {occurred_at:%Y-%m-%d %H:%M:%S} UTC"
        return [
            ("schema version", str(self.schema_version)),
            ("draining", draining),
            ("doorbell", format_doorbell(drainer)),
            ("outbox", outbox),
            ("delivery queue", format_count(self.pending_deliveries)),
            ("last event", last_event),
            *_format_overview(self.overview),
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
        drainer=_drainer(state),
        outbox_count=state["outbox_count"],
        outbox_oldest_seconds=state["outbox_oldest_seconds"],
        pending_deliveries=state["pending_count"],
        last_event_id=state["last_event_id"],
        last_event_occurred_at=state["last_event_occurred_at"],
        overview=_overview(connection, state, minutes, point_seconds),
    )


def read_overview(
    connection: Connection,
    *,
    minutes: int = OVERVIEW_MINUTES,
    point_seconds: int = OVERVIEW_POINT_SECONDS,
) -> Overview:
    """Read the overview of the last ``minutes``."""
    [state] = fetch(connection, "overview")
    return _overview(connection, state, minutes, point_seconds)


def read_drainer(connection: Connection) -> Drainer:
    """Return the bridge that drains, or drained last."""
    [state] = fetch(connection, "overview")
    return _drainer(state)


def _drainer(state: Mapping[str, Any]) -> Drainer:
    return Drainer(
        pid=state["drainer_pid"],
        rings=state["rings"],
        bridge=state["drainer"],
        mode=state["doorbell_mode"],
        switches=state["switches"],
        switched_seconds=state["switched_seconds"],
        leading_seconds=state["leading_seconds"],
    )


def _overview(
    connection: Connection, state: Mapping[str, Any], minutes: int, point_seconds: int
) -> Overview:
    return overview(
        state,
        fetch(connection, "running_bridges"),
        fetch(connection, "activity", minutes, point_seconds),
    )


def format_doorbell(drainer: Drainer) -> str:
    """Describe the state of the doorbell and the mode of the drainer."""
    words = {True: "ringing", False: "quiet", None: "unknown"}[drainer.rings]
    if drainer.switched_seconds is not None:
        words += (
            f", mode {drainer.mode}, switched {drainer.switches} times, "
            f"set {format_seconds(drainer.switched_seconds)} ago"
        )
    return words


def _format_overview(figures: Overview) -> list[tuple[str, str]]:
    clients = sum(each.clients for each in figures.bridges)
    rates, success = figures.rates, figures.success_rate
    delivered = f"{rates.deliveries_per_second:.1f} deliveries/s"
    if success.deliveries is not None:
        delivered += f"; {success.deliveries:.2%} succeeded in the last hour"
    return [
        ("bridges", f"{len(figures.bridges)} running, with {clients} clients"),
        (
            "events",
            f"{rates.events_per_second:.1f} events/s{_format_delay(figures.commit_to_client)}",
        ),
        ("deliveries", delivered + _format_delay(figures.commit_to_acknowledged)),
    ]


def _format_delay(delay: Delay) -> str:
    """Return the latencies of the last hour, to append to a line."""
    if delay.p50_seconds is None or delay.p95_seconds is None:
        return ""
    p50, p95 = (f"{1000 * each:.1f} ms" for each in (delay.p50_seconds, delay.p95_seconds))
    return f"; latency since commit: median {p50}, p95 {p95}"


def format_count(count: int) -> str:
    """Return the size of a queue, which is counted only up to a limit."""
    return f"{count}" if count <= COUNTED else f"more than {COUNTED}"


def format_seconds(seconds: float) -> str:
    """Return a duration in a readable unit."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _counted(count: int) -> dict[str, Any]:
    return {"count": min(count, COUNTED), "more": count > COUNTED}
