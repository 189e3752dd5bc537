"""What the database tells of the bridge at work on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bridge import assets
from bridge.database.sessions import Connection, fetch
from bridge.operations.overview import COUNTED, Delay, Overview, overview

#: What the overview looks back at, and in what steps.
OVERVIEW_MINUTES = 60
OVERVIEW_POINT_SECONDS = 60


class StatusError(Exception):
    """There is no status to tell. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Drainer:
    """The bridge that drains, or drained last."""

    #: Of the session that holds the drainer's lock; None: no bridge drains now.
    pid: int | None
    #: Whether commits ring; None where it cannot be seen.
    rings: bool | None
    #: Host and process, None: none has drained yet. What follows is None then, too.
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
    """Where everything stands."""

    schema_version: int
    drainer: Drainer
    outbox_count: int
    outbox_oldest_seconds: float | None
    pending_deliveries: int
    last_event_id: int | None
    last_event_occurred_at: datetime | None
    overview: Overview

    def to_json(self) -> dict[str, Any]:
        """Return it as ``pgbridge status --json`` prints it."""
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
        """Return it for people, as names and values."""
        drainer = self.drainer
        draining = "no bridge; run: pgbridge run"
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
            last_event = f"{self.last_event_id}, of {occurred_at:%Y-%m-%d %H:%M:%S} UTC"
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
        minutes, point_seconds: of its overview.

    Raises:
        StatusError: the database is for another version of pgbridge.
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
    """Read the figures, and how they were over so many minutes."""
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
    """Return whether commits ring, and what the drainer makes of that."""
    words = {True: "ringing", False: "quiet", None: "unknown"}[drainer.rings]
    if drainer.switched_seconds is not None:
        words += (
            f", mode {drainer.mode}, switched {drainer.switches} times, "
            f"set {format_seconds(drainer.switched_seconds)} ago"
        )
    return words


def _format_overview(told: Overview) -> list[tuple[str, str]]:
    clients = sum(each.clients for each in told.bridges)
    rates, success = told.rates, told.success_rate
    delivered = f"{rates.deliveries_per_second:.1f} deliveries/s"
    if success.deliveries is not None:
        delivered += f"; in the last hour {success.deliveries:.2%} of those finished succeeded"
    return [
        ("bridges", f"{len(told.bridges)} running, with {clients} clients"),
        ("events", f"{rates.events_per_second:.1f} events/s{_format_delay(told.commit_to_client)}"),
        ("deliveries", delivered + _format_delay(told.commit_to_acknowledged)),
    ]


def _format_delay(delay: Delay) -> str:
    """Return how late they came in the last hour, to be added to something."""
    if delay.p50_seconds is None or delay.p95_seconds is None:
        return ""
    half, most = (f"{1000 * each:.1f} ms" for each in (delay.p50_seconds, delay.p95_seconds))
    return f"; half of them within {half} of the commit, 95 % within {most}"


def format_count(count: int) -> str:
    """Return the number of what a queue holds, as far as it was counted."""
    return f"{count}" if count <= COUNTED else f"more than {COUNTED}"


def format_seconds(seconds: float) -> str:
    """Return a time in the unit in which people think of it."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _counted(count: int) -> dict[str, Any]:
    return {"count": min(count, COUNTED), "more": count > COUNTED}
