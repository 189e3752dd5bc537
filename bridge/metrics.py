"""What is counted, under the names that ``GET /metrics`` shows.

Labels are bounded: names of rules and of states, never ids or texts.
"""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    generate_latest,
)

#: The type of what :func:`exposition` returns.
CONTENT_TYPE = CONTENT_TYPE_LATEST

_registry = CollectorRegistry()

events_drained = Counter(
    "pgbridge_events_drained",
    "Events that this bridge moved from the outbox to the log.",
    registry=_registry,
)
capture_errors = Counter(
    "pgbridge_capture_errors",
    "Events drained without their payload, because the rule could not compute it.",
    ["rule"],
    registry=_registry,
)
draining = Gauge(
    "pgbridge_draining",
    "1 if this bridge is the one that drains the outbox, else 0.",
    registry=_registry,
)
doorbell_mode = Enum(
    "pgbridge_doorbell_mode",
    "BRIDGE_DOORBELL, as this bridge was started with.",
    states=["adaptive", "notify", "poll"],
    registry=_registry,
)
doorbell_state = Enum(
    "pgbridge_doorbell_state",
    "How this bridge, while it drains, learns of events.",
    states=["ringing", "quiet", "rearming"],
    registry=_registry,
)
doorbell_switches = Counter(
    "pgbridge_doorbell_switches",
    "How often this bridge switched the doorbell, by what it switched it to.",
    ["to"],
    registry=_registry,
)
clients = Gauge(
    "pgbridge_clients",
    "WebSocket clients that are connected to this bridge.",
    registry=_registry,
)
delivery_attempts = Counter(
    "pgbridge_delivery_attempts",
    "Attempts at deliveries that have ended, by kind of failure; none: the receiver took it.",
    ["failure"],
    registry=_registry,
)


def exposition() -> bytes:
    """Return all metrics in Prometheus' text format."""
    return generate_latest(_registry)
