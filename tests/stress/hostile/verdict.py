"""The outcome of a hostile run, its bounds, and which of them were broken. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bridge.database.limits import DRAIN_SECONDS
from tests.stress.chaos.verdict import Arrival


@dataclass(frozen=True)
class Bounds:
    """What the attackers may at most cause.

    Attributes:
        latency_share: the honest clients' 99th percentile may be this many times that of the quiet
            phase, or
        latency_ms: exceed it by this, whichever is more. With two processors for attackers, bridge,
            PostgreSQL and honest clients, a process alone waits this long for its turn.
            None: latencies are not judged.
        drain_seconds: how long an event may be the oldest in the outbox: one drain that runs into
            its limit, and the next, smaller one.
        bridge_mib: memory of the bridge.
        backend_mib: private memory of each process of PostgreSQL.
        growth_share, growth_mib: how much more memory than before the attack the bridge may have
            after it, mostly for its caches of events, which may have been empty before.
    """

    latency_share: float = 2.0
    latency_ms: float | None = 100.0
    drain_seconds: float = DRAIN_SECONDS + 2.5
    bridge_mib: float = 400.0
    backend_mib: float = 300.0
    growth_share: float = 0.10
    growth_mib: float = 32.0

    def most_after_mib(self, before_mib: float) -> float:
        """Return how much memory the bridge may use after the attack."""
        return before_mib * (1 + self.growth_share) + self.growth_mib


@dataclass(frozen=True)
class Latency:
    """The 99th percentiles of an honest client in milliseconds."""

    quiet_ms: float
    attacked_ms: float


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        quiet_cpu_percent: how busy the processors were in the quiet phase, with other programs too.
        rest, stream: from request to response, and from commit to client.
        requests, answered, unavailable: of the honest REST client: all, those with a response, and
            those with 503.
        fresh_mib, before_mib, peak_mib, after_mib: memory of the bridge after its start, after a
            warm-up attack, at its peak, and after the attack.
        backend_mib, backend: the largest private memory of a process of PostgreSQL, and its name.
        drain_wait_seconds: the longest time for which one event was the oldest in the outbox.
        most_waiting: the most events in the outbox.
        drain_timeouts: drains that ran into their time limit.
        rights: what the table owner gained, a line each.
    """

    quiet_cpu_percent: float
    rest: Latency
    stream: Latency
    requests: int
    answered: int
    unavailable: int
    fresh_mib: float
    before_mib: float
    peak_mib: float
    after_mib: float
    descriptors_before: int
    descriptors_after: int
    backend_mib: float
    backend: str
    drain_wait_seconds: float
    most_waiting: int
    drain_timeouts: int
    tracebacks: int
    rights: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    seconds: float
    #: Events, and those that the stream client received once and in order.
    committed: int
    received: int
    #: Deliveries that the receiver verified.
    delivered: int
    missing: int
    figures: Figures
    attacks: Mapping[str, int]
    #: One line per problem.
    problems: Sequence[str]


def broken(figures: Figures, bounds: Bounds) -> Iterator[str]:
    """Yield a line for each bound that was broken."""
    if bounds.latency_ms is not None:
        yield from _slow("REST", figures.rest, bounds.latency_share, bounds.latency_ms)
        yield from _slow(
            "commit to stream", figures.stream, bounds.latency_share, bounds.latency_ms
        )
        if figures.unavailable:
            yield f"requests: {figures.unavailable} honest requests got 503"
    if figures.answered != figures.requests or not figures.requests:
        yield f"requests: {figures.answered} of {figures.requests} honest requests were answered"
    if figures.drain_wait_seconds > bounds.drain_seconds:
        yield (
            f"drain: an event was the oldest in the outbox for {figures.drain_wait_seconds:.1f} s,"
            f" and {figures.drain_timeouts} drains timed out; allowed: {bounds.drain_seconds:.1f} s"
        )
    if figures.peak_mib > bounds.bridge_mib:
        yield f"memory: the bridge used {figures.peak_mib:.0f} of {bounds.bridge_mib:.0f} MiB"
    if figures.backend_mib > bounds.backend_mib:
        yield (
            f"memory: a process of PostgreSQL ({figures.backend}) used {figures.backend_mib:.0f} of"
            f" {bounds.backend_mib:.0f} MiB"
        )
    if figures.after_mib > bounds.most_after_mib(figures.before_mib):
        yield (
            f"leak: the bridge kept {figures.after_mib:.1f} MiB, and had {figures.before_mib:.1f}"
            f" before; allowed: {bounds.most_after_mib(figures.before_mib):.1f}"
        )
    if figures.descriptors_after > figures.descriptors_before:
        yield (
            f"leak: {figures.descriptors_after} open files after the attack,"
            f" {figures.descriptors_before} before"
        )
    for line in figures.rights:
        yield f"rights: {line}"


def _slow(name: str, latency: Latency, share: float, more_ms: float) -> Iterator[str]:
    most_ms = max(share * latency.quiet_ms, latency.quiet_ms + more_ms)
    if not latency.attacked_ms <= most_ms:  # also if it is NaN
        yield (
            f"latency: {name} took {latency.attacked_ms:.0f} ms (p99) under attack, and"
            f" {latency.quiet_ms:.0f} ms before; allowed: {most_ms:.0f} ms"
        )


def gained(
    before: Mapping[str, str], after: Mapping[str, str], ran_as: set[str], allowed: set[str]
) -> Iterator[str]:
    """Yield a line for each right that a role gained or lost during the attack.

    Args:
        before: what each role may do, and who owns what, as ``scene.rights`` returns it.
        after: the same after the attack.
        ran_as: the roles as which code of the table owner ran.
        allowed: the roles whose rights it has anyway.
    """
    for name in sorted({*before} | {*after}):
        if before.get(name) != after.get(name):
            yield f"{name} was {before.get(name)!r} and is {after.get(name)!r}"
    for role in sorted(ran_as - allowed):
        yield f"code of the table owner ran as {role}"
    if not ran_as:
        yield "no code of the table owner ran"


def misled(
    committed: Sequence[str], received: Sequence[tuple[int, str]], arrivals: Sequence[Arrival]
) -> Iterator[str]:
    """Yield a line for each difference between the commits and what honest clients received.

    Args:
        committed: keys in commit order.
        received: IDs and keys of the events on the stream.
        arrivals: requests to the webhook's receiver.
    """
    ids = [event_id for event_id, _ in received]
    if ids != sorted(set(ids)):
        yield "the client received events twice or out of order"
    # One connection commits them, one by one.
    if [key for _, key in received] != list(committed):
        yield "the client did not receive exactly the commits, in order"
    for arrival in arrivals:
        if not arrival.verified:
            yield f"{arrival.message_id} has an invalid signature"
    delivered = [arrival.message_id for arrival in arrivals]
    if repeated := len(delivered) - len(set(delivered)):
        yield f"{repeated} deliveries arrived twice"
    if lacking := set(committed) - {arrival.key for arrival in arrivals}:
        yield f"{len(lacking)} events were not delivered"
