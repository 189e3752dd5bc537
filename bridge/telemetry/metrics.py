"""The metrics that ``GET /metrics`` exposes. ``docs/metrics.md`` explains them.

Label values are bounded: rules, states and reasons, never ids or texts.
"""

from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter, Enum, Gauge

from bridge import assets
from bridge.telemetry.exposition import ExposedHistogram, Snapshot

#: Rules that get a label. There are fewer, but anyone who emits events by hand can invent names.
MOST_RULES: Final = 100
#: Why the bridge drops clients.
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

# --- capture and relay

events_captured = Snapshot(
    "pgbridge_events_captured",
    "Ids assigned by the outbox since its creation, including those of rolled-back transactions.",
    kind="counter",
)
events_drained = Counter(
    "pgbridge_events_drained", "Events that this bridge moved from the outbox to the log."
)
capture_errors = Counter(
    "pgbridge_capture_errors",
    "Events drained without a payload because the rule could not compute it.",
    ["rule"],
)
blind_rules = Snapshot(
    "pgbridge_blind_rules",
    "Rules that capture nothing although they are not paused, by reason.",
    "reason",
)
commit_to_drained = ExposedHistogram(
    "pgbridge_commit_to_drained_seconds",
    "Time from the capture of an event until this bridge moved it to the log.",
)
outbox_events = Snapshot(
    "pgbridge_outbox_events", "Captured events that are not drained yet, counted to 10,001."
)
outbox_oldest = Snapshot(
    "pgbridge_outbox_oldest_seconds", "Age of the oldest event in the outbox, or 0 if it is empty."
)
deferred_events = Snapshot(
    "pgbridge_deferred_events",
    "Drained events that are not queued for all of their webhooks yet, counted to 10,001.",
)
deferred_oldest = Snapshot(
    "pgbridge_deferred_oldest_seconds", "Age of the oldest of these events, or 0 if there are none."
)
dead_letters = Snapshot(
    "pgbridge_dead_letters",
    "Events and deliveries that PostgreSQL could not process, counted to 10,001.",
)
dead_letters_oldest = Snapshot(
    "pgbridge_dead_letters_oldest_seconds",
    "Time since the oldest of them was set aside, or 0.",
)
draining = Gauge("pgbridge_draining", "1 if this bridge drains the outbox, else 0.")
doorbell_mode = Enum(
    "pgbridge_doorbell_mode",
    "BRIDGE_DOORBELL of this bridge.",
    states=["adaptive", "notify", "poll"],
)
doorbell_state = Snapshot(
    "pgbridge_doorbell_state",
    "1 for the current state of the doorbell while this bridge drains, otherwise 0.",
    "pgbridge_doorbell_state",
)
doorbell_switches = Counter(
    "pgbridge_doorbell_switches",
    "Times this bridge switched the doorbell, by the new state.",
    ["to"],
)

# --- stream

events_streamed = Counter(
    "pgbridge_events_streamed", "Events sent to clients; one event to ten clients counts as ten."
)
commit_to_client = ExposedHistogram(
    "pgbridge_commit_to_client_seconds",
    "Time from the capture of an event until it was written to all clients of this bridge.",
)
clients = Gauge("pgbridge_clients", "Connected WebSocket clients.")
clients_connected = Counter("pgbridge_clients_connected", "Accepted WebSocket clients.")
clients_dropped = Counter(
    "pgbridge_clients_dropped", "WebSocket clients dropped by the bridge, by reason.", ["reason"]
)
client_buffer = Gauge(
    "pgbridge_client_buffer_bytes", "Bytes buffered in memory for slow clients, in total."
)
client_buffer_largest = Gauge(
    "pgbridge_client_buffer_largest_bytes", "Bytes buffered for the client with the largest buffer."
)

# --- delivery

delivery_attempts = Counter(
    "pgbridge_delivery_attempts",
    "Finished delivery attempts, by failure; none if the receiver accepted the delivery.",
    ["failure"],
)
delivery_succeeded = Counter(
    "pgbridge_delivery_succeeded", "Deliveries recorded as accepted by their receiver."
)
delivery_retried = Counter(
    "pgbridge_delivery_retried", "Failed attempts recorded for a retry.", ["failure"]
)
delivery_failed = Counter(
    "pgbridge_delivery_failed", "Deliveries recorded as failed for good.", ["failure"]
)
commit_to_acknowledged = ExposedHistogram(
    "pgbridge_commit_to_acknowledged_seconds",
    "Time from the commit of an event until a receiver's 2xx, with retries, without redeliveries.",
)
delivery_attempt_seconds = ExposedHistogram(
    "pgbridge_delivery_attempt_seconds", "Duration of delivery attempts, including failed ones."
)
delivery_in_flight = Gauge("pgbridge_delivery_in_flight", "Deliveries leased by this bridge.")
delivery_queue = Snapshot(
    "pgbridge_delivery_queue",
    "Deliveries that no bridge has leased, by state, each counted to 10,001.",
    "state",
)
delivery_queue_oldest_due = Snapshot(
    "pgbridge_delivery_queue_oldest_due_seconds",
    "How long the oldest due delivery has been due, or 0 if none is.",
)
webhooks = Snapshot("pgbridge_webhooks", "Webhooks, by state.", "state")

# --- the bridge itself

ready = Snapshot("pgbridge_ready", "1 if this check of /readyz passes, else 0.", "check")
listening = Snapshot(
    "pgbridge_listening",
    "1 if test notifications reach this bridge, else 0; absent with BRIDGE_DOORBELL=poll.",
)
listen_round_trip = Snapshot(
    "pgbridge_listen_round_trip_seconds", "Round trip of the last test notification."
)
logins_failed = Counter(
    "pgbridge_logins_failed", "Invalid tokens and tickets presented to this bridge."
)
requests = Counter("pgbridge_requests", "Answered REST requests, by class of status.", ["status"])
database_connections = Gauge(
    "pgbridge_database_connections", "Connections in this bridge's pool, by state.", ["state"]
)
build_info = Gauge("pgbridge_build_info", "Always 1; the version of this bridge.", ["version"])

# Start these at 0, because rate() needs a first sample.
for _reason in DROPPED:
    clients_dropped.labels(_reason)
for _to in ("quiet", "ring"):
    doorbell_switches.labels(_to)
_requests = {f"{digit}xx": requests.labels(f"{digit}xx") for digit in range(1, 6)}
build_info.labels(assets.version()).set(1)
_rules: set[str] = set()


def count_capture_errors(rule: str, events: int) -> None:
    """Count events without a payload; ``other`` stands for all rules after ``MOST_RULES``."""
    if rule not in _rules:
        if len(_rules) >= MOST_RULES:
            rule = "other"
        else:
            _rules.add(rule)
    capture_errors.labels(rule).inc(events)


def count_request(status: int) -> None:
    """Count an answered request."""
    counter = _requests.get(f"{status // 100}xx")
    if counter is not None:
        counter.inc()


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts since the start of this process, named like the columns of ``bridge.activity``."""

    clients_dropped: int
    events_drained: int
    events_streamed: int
    delivered: int
    retried: int
    failed: int
    commit_to_client: tuple[int, ...]
    commit_to_acknowledged: tuple[int, ...]


def totals() -> Totals:
    """Return the counts so far."""
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
    """Return a counter's sum over its labels."""
    return round(
        sum(
            sample.value
            for family in counter.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        )
    )
