"""What is counted, under the names that ``GET /metrics`` shows; ``docs/metrics.md`` explains them.

Labels are bounded: names of rules and of states, never ids or texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from bridge import assets
from bridge.telemetry.histogram import BOUNDS, Histogram

#: The type of what :func:`exposition` returns.
CONTENT_TYPE = CONTENT_TYPE_LATEST
#: Rules that are counted apart; there are not so many, but whoever emits events by hand may make
#: up what they are called.
MOST_RULES: Final = 100
#: Why clients are sent away or given up.
DROPPED: Final = (
    "changed",
    "crashed",
    "idle",
    "event_log_rewound",
    "protocol",
    "revoked",
    "silent",
    "slow",
    "stopping",
    "too_big",
)

_registry = CollectorRegistry()
ProcessCollector(registry=_registry)


class Seen(Collector):
    """What was seen when somebody looked last; no samples once that is not known any more.

    Args:
        kind: ``gauge``, or ``counter`` for what another one counts.
        label: of the states that it is told of; None: it is one number.
    """

    def __init__(self, name: str, help_: str, label: str | None = None, *, kind: str = "gauge"):
        self._name, self._help, self._label, self._kind = name, help_, label, kind
        self._values: Mapping[str, float] = {}
        _registry.register(self)

    def show(self, value: float | None) -> None:
        """Show a number, or nothing."""
        self._values = {} if value is None else {"": value}

    def show_states(self, values: Mapping[str, float]) -> None:
        """Show a number for each of some states."""
        self._values = values

    def collect(self) -> Iterable[Metric]:
        """Give Prometheus what there is."""
        family = Metric(self._name, self._help, self._kind)
        sample = self._name + ("_total" if self._kind == "counter" else "")
        for state, value in self._values.items():
            family.add_sample(sample, {self._label: state} if self._label else {}, value)
        yield family


class _Durations(Collector):
    """Shows a histogram of ours: one of Prometheus' takes ten times as long to count."""

    def __init__(self, name: str, help_: str, histogram: Histogram) -> None:
        self._name, self._help, self._histogram = name, help_, histogram

    def collect(self) -> Iterable[Metric]:
        passed, buckets = 0, []
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self._histogram.counts, strict=True):
            passed += count
            buckets.append((bound, passed))
        family = HistogramMetricFamily(self._name, self._help)
        family.add_metric([], buckets, self._histogram.sum_seconds)
        yield family


def _histogram(name: str, help_: str) -> Histogram:
    histogram = Histogram()
    _registry.register(_Durations(name, help_, histogram))
    return histogram


# --- capture and relay

events_captured = Seen(
    "pgbridge_events_captured",
    "Ids that the outbox has given out, ever; those of transactions that were rolled back, too.",
    kind="counter",
)
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
commit_to_drained = _histogram(
    "pgbridge_commit_to_drained_seconds",
    "From the capture of an event to when this bridge had moved it to the log.",
)
outbox_events = Seen(
    "pgbridge_outbox_events", "Captured events that are not drained, counted up to 10,001."
)
outbox_oldest = Seen(
    "pgbridge_outbox_oldest_seconds", "Since the oldest of them was captured; 0 without any."
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
doorbell_state = Seen(
    "pgbridge_doorbell_state",
    "How this bridge learns of events: 1 for one of the states while it drains, else 0 for all.",
    "pgbridge_doorbell_state",
)
doorbell_switches = Counter(
    "pgbridge_doorbell_switches",
    "How often this bridge switched the doorbell, by what it switched it to.",
    ["to"],
    registry=_registry,
)

# --- live

events_streamed = Counter(
    "pgbridge_events_streamed",
    "Events that were handed to clients: one event to ten clients is ten.",
    registry=_registry,
)
commit_to_client = _histogram(
    "pgbridge_commit_to_client_seconds",
    "From the capture of an event to when the clients of this bridge had been written it.",
)
clients = Gauge(
    "pgbridge_clients",
    "WebSocket clients that are connected to this bridge.",
    registry=_registry,
)
clients_connected = Counter(
    "pgbridge_clients_connected",
    "WebSocket clients that were let in.",
    registry=_registry,
)
clients_dropped = Counter(
    "pgbridge_clients_dropped",
    "WebSocket clients that were sent away or given up, by reason.",
    ["reason"],
    registry=_registry,
)
client_buffer = Gauge(
    "pgbridge_client_buffer_bytes",
    "What waits in memory for clients that read more slowly than they are sent, all together.",
    registry=_registry,
)
client_buffer_largest = Gauge(
    "pgbridge_client_buffer_largest_bytes",
    "The same, of the client for which most waits.",
    registry=_registry,
)

# --- delivery

delivery_attempts = Counter(
    "pgbridge_delivery_attempts",
    "Attempts at deliveries that have ended, by kind of failure; none: the receiver took it.",
    ["failure"],
    registry=_registry,
)
delivery_succeeded = Counter(
    "pgbridge_delivery_succeeded",
    "Deliveries that a receiver took, once that is written down.",
    registry=_registry,
)
delivery_retried = Counter(
    "pgbridge_delivery_retried",
    "Failed attempts after which there will be another, once that is written down.",
    ["failure"],
    registry=_registry,
)
delivery_failed = Counter(
    "pgbridge_delivery_failed",
    "Deliveries that were given up, once that is written down.",
    ["failure"],
    registry=_registry,
)
commit_to_acknowledged = _histogram(
    "pgbridge_commit_to_acknowledged_seconds",
    "From the commit of an event to a receiver's 2xx, retries included; without redeliveries.",
)
delivery_attempt_seconds = _histogram(
    "pgbridge_delivery_attempt_seconds", "How long attempts took, failed ones included."
)
delivery_in_flight = Gauge(
    "pgbridge_delivery_in_flight",
    "Deliveries that this bridge holds: being sent, or about to be written down.",
    registry=_registry,
)
delivery_queue = Seen(
    "pgbridge_delivery_queue",
    "Deliveries that nobody holds, by what they wait for, each counted up to 10,001.",
    "state",
)
delivery_queue_oldest_due = Seen(
    "pgbridge_delivery_queue_oldest_due_seconds",
    "How long the oldest that could be sent now has waited for that; 0 without any.",
)
webhooks = Seen("pgbridge_webhooks", "Webhooks, by state.", "state")

# --- the bridge itself

ready = Seen(
    "pgbridge_ready",
    "By each of the checks of /readyz: 1 if it finds nothing wrong with this bridge, else 0.",
    "check",
)
listening = Seen(
    "pgbridge_listening",
    "1 if what is notified was heard by this bridge of late, else 0; none with doorbell poll.",
)
listen_round_trip = Seen(
    "pgbridge_listen_round_trip_seconds",
    "How long it took to hear what was notified, when that was tried last.",
)
logins_failed = Counter(
    "pgbridge_logins_failed",
    "Tokens and tickets that were shown to this bridge and are none, or are not valid any more.",
    registry=_registry,
)
requests = Counter(
    "pgbridge_requests",
    "Requests of REST that were answered, by class of status.",
    ["status"],
    registry=_registry,
)
database_connections = Gauge(
    "pgbridge_database_connections",
    "Connections of this bridge's pool.",
    ["state"],
    registry=_registry,
)
build_info = Gauge(
    "pgbridge_build_info", "Always 1; which version this is.", ["version"], registry=_registry
)

# What has not happened yet has happened no time: a rate needs something to begin at.
for _reason in DROPPED:
    clients_dropped.labels(_reason)
for _to in ("quiet", "ring"):
    doorbell_switches.labels(_to)
_requests = {f"{digit}xx": requests.labels(f"{digit}xx") for digit in range(1, 6)}
build_info.labels(assets.version()).set(1)
_rules: set[str] = set()
_samplers: list[Callable[[], None]] = []


def count_capture_errors(rule: str, events: int) -> None:
    """Count events of a rule that could not compute its payload; rules beyond many as one."""
    if rule not in _rules:
        if len(_rules) >= MOST_RULES:
            rule = "other"
        else:
            _rules.add(rule)
    capture_errors.labels(rule).inc(events)


def count_request(status: int) -> None:
    """Count a request that is answered."""
    counter = _requests.get(f"{status // 100}xx")
    if counter is not None:
        counter.inc()


@dataclass(frozen=True, slots=True)
class Totals:
    """What this process has counted since it was started, by the names of ``bridge.activity``."""

    clients_dropped: int
    events_drained: int
    events_streamed: int
    delivered: int
    retried: int
    failed: int
    commit_to_client: tuple[int, ...]
    commit_to_acknowledged: tuple[int, ...]


def totals() -> Totals:
    """Return what was counted so far."""
    return Totals(
        clients_dropped=_total(clients_dropped),
        events_drained=_total(events_drained),
        events_streamed=_total(events_streamed),
        delivered=_total(delivery_succeeded),
        retried=_total(delivery_retried),
        failed=_total(delivery_failed),
        commit_to_client=tuple(commit_to_client.counts),
        commit_to_acknowledged=tuple(commit_to_acknowledged.counts),
    )


def _total(counter: Counter) -> int:
    """Return what a counter has counted, over all its labels."""
    return round(
        sum(
            sample.value
            for family in counter.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        )
    )


@contextmanager
def sampled_by(sampler: Callable[[], None]) -> Iterator[None]:
    """Have gauges set by somebody whenever they are asked for, for the time of the context."""
    _samplers.append(sampler)
    try:
        yield
    finally:
        _samplers.remove(sampler)


async def exposition() -> bytes:
    """Return all metrics of this process in Prometheus' text format."""
    for sampler in _samplers:
        sampler()
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
