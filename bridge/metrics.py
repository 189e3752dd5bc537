"""What is counted, under the names that ``GET /metrics`` shows.

Labels are bounded: names of rules and of states, never ids or texts.
"""

from collections.abc import Iterable, Mapping

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

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


async def exposition() -> bytes:
    """Return all metrics of this process in Prometheus' text format."""
    return generate_latest(_registry)


def merge_expositions(by_worker: Mapping[int, bytes]) -> bytes:
    """Return one exposition of several: each sample with its worker's number as a label."""
    registry = CollectorRegistry()
    registry.register(_Workers(by_worker))
    return generate_latest(registry)


class _Workers(Collector):
    """What several processes have counted, with one family of each name."""

    def __init__(self, by_worker: Mapping[int, bytes]) -> None:
        self._families: dict[str, Metric] = {}
        for worker, text in sorted(by_worker.items()):
            for read in text_string_to_metric_families(text.decode()):
                family = self._families.setdefault(
                    read.name, Metric(read.name, read.documentation, read.type)
                )
                family.samples += [
                    sample._replace(labels={"worker": str(worker), **sample.labels})
                    for sample in read.samples
                ]

    def collect(self) -> Iterable[Metric]:
        return self._families.values()
