"""What the books say: nothing lost, nothing invented, repeats that can be told as such.  (pure)"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from bridge.events import patterns_matching


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that a receiver has read to its end."""

    #: The header webhook-id, of the form evt_<event>_wh_<webhook>.
    message_id: str
    #: The header X-Webhook-Id.
    webhook_id: str
    event_type: str
    body: bytes
    #: Both signatures were right.
    verified: bool
    #: The receiver answered, or was about to answer, with a whole head that says 2xx.
    accepted: bool

    @property
    def event_id(self) -> int:
        return int(self.message_id.split("_")[1])

    @property
    def key(self) -> str | None:
        """The application's key; None for what the bridge tells of itself."""
        if self.event_type != "user.created":
            return None
        return str(json.loads(self.body)["username"])


@dataclass
class Account:
    """The books of one receiver."""

    name: str
    #: It answered 200 to everything, at once, on connections that it kept.
    honest: bool
    ordered: bool
    #: Which keys it has to get.
    takes: Callable[[str], bool]
    #: How the webhook is told so.
    event_type: str = "user.created"
    filter: str | None = None
    webhook_id: int = 0
    arrivals: list[Arrival] = field(default_factory=list)

    def firsts(self) -> list[Arrival]:
        """Return what arrived, without repeats, in the order of first arrivals."""
        firsts: dict[str, Arrival] = {}
        for arrival in self.arrivals:
            firsts.setdefault(arrival.message_id, arrival)
        return list(firsts.values())

    @property
    def duplicates(self) -> int:
        return len(self.arrivals) - len({arrival.message_id for arrival in self.arrivals})


@dataclass(frozen=True)
class Books:
    """The application's books."""

    committed: Collection[str]
    unknown: Collection[str]
    rolled_back: Collection[str]


def lost(books: Books, accounts: Sequence[Account]) -> list[str]:
    """Return a line for each committed key that a receiver had to get and never accepted."""
    lines = []
    for account in accounts:
        accepted = {arrival.key for arrival in account.arrivals if arrival.accepted}
        lines += [
            f"{account.name}: {key} was committed and never arrived"
            for key in books.committed
            if account.takes(key) and key not in accepted
        ]
    return lines


def delivered(accounts: Sequence[Account]) -> int:
    """Return how many different deliveries of keys were accepted."""
    return sum(
        len({arrival.key for arrival in account.arrivals if arrival.accepted} - {None})
        for account in accounts
    )


def contradictions(
    books: Books, accounts: Sequence[Account], *, in_flight_at_faults: int
) -> Iterator[str]:
    """Yield a line for whatever the two sides' books cannot both be right about, losses aside."""
    possible = {*books.committed, *books.unknown}
    for account in accounts:
        yield from _of_one(account, possible, set(books.rolled_back))
    # A receiver that answers at once and stays connected gets a delivery again only if an answer,
    # or what was made of it, was lost; that befalls only what was in flight when a fault struck.
    repeated = sum(account.duplicates for account in accounts if account.honest)
    if repeated > in_flight_at_faults:
        yield (
            f"honest receivers got {repeated} repeats, and only {in_flight_at_faults} deliveries"
            " to them were in flight at faults"
        )


def _of_one(account: Account, possible: set[str], rolled_back: set[str]) -> Iterator[str]:
    first_by_id: dict[str, Arrival] = {}
    id_by_key: dict[str, str] = {}
    for arrival in account.arrivals:
        what = f"{account.name}: {arrival.message_id}"
        if not arrival.verified:
            yield f"{what} has a wrong signature"
        if (
            arrival.webhook_id != str(account.webhook_id)
            or arrival.message_id != f"evt_{arrival.event_id}_wh_{account.webhook_id}"
        ):
            yield f"{what} came with X-Webhook-Id {arrival.webhook_id}"
        first = first_by_id.setdefault(arrival.message_id, arrival)
        if (first.body, first.event_type) != (arrival.body, arrival.event_type):
            yield f"{what} came again with another body"
        key = arrival.key
        if key is None:
            continue
        if key in rolled_back:
            yield f"{what} tells of {key}, which was rolled back"
        elif key not in possible:
            yield f"{what} tells of {key}, which nobody wrote"
        elif not account.takes(key):
            yield f"{what} tells of {key}, which it did not ask for"
        if id_by_key.setdefault(key, arrival.message_id) != arrival.message_id:
            yield f"{what} tells of {key}, as {id_by_key[key]} did"
    if account.ordered:
        yield from _disorder(account)


def _disorder(account: Account) -> Iterator[str]:
    firsts = account.firsts()
    for before, after in pairwise(firsts):
        if after.event_id < before.event_id:
            yield f"{account.name}: {after.message_id} came first after {before.message_id}"
    # One connection wrote them all, so the order of its commits is that of the numbers.
    numbers = [int(key.removeprefix("u")) for first in firsts if (key := first.key) is not None]
    if numbers != sorted(numbers):
        yield f"{account.name}: keys came in another order than they were committed in"


@dataclass(frozen=True)
class Record:
    """What the database says at the end."""

    #: webhook, event and status of each row of webhook_deliveries.
    deliveries: Sequence[tuple[int, int, str]]
    #: webhook, event, and whether the lease before it was still good, for each lease ever given.
    leases: Sequence[tuple[int, int, bool]]
    #: Deliveries that are not finished, and those of them with a lease.
    pending: int
    leased: int
    #: What webhooks.delivered_count adds up to.
    delivered_count: int
    #: Id and type of each event of the log, in order.
    log: Sequence[tuple[int, str]]


def disagreements(record: Record, accounts: Sequence[Account]) -> Iterator[str]:
    """Yield a line for whatever the database says otherwise than the receivers."""
    if record.pending or record.leased:
        yield f"{record.pending} deliveries are pending at the end, {record.leased} with a lease"
    succeeded = Counter(
        f"evt_{event}_wh_{webhook}"
        for webhook, event, status in record.deliveries
        if status == "success"
    )
    if failed := sum(status == "failed" for *_, status in record.deliveries):
        yield f"{failed} deliveries failed"
    if record.delivered_count != succeeded.total():
        yield (
            f"webhooks.delivered_count adds up to {record.delivered_count}, and"
            f" {succeeded.total()} deliveries have succeeded"
        )
    leases = Counter(f"evt_{event}_wh_{webhook}" for webhook, event, _ in record.leases)
    for webhook, event, overlaps in record.leases:
        if overlaps:
            yield f"evt_{event}_wh_{webhook} was leased while another lease of it was good"
    arrived: Counter[str] = Counter()
    for account in accounts:
        ids = Counter(arrival.message_id for arrival in account.arrivals)
        arrived += ids
        if account.honest:
            yield from (
                f"{account.name}: {message_id} came {count} times on {leases[message_id]} leases"
                for message_id, count in ids.items()
                if count > leases[message_id]
            )
    for message_id in arrived:
        if succeeded[message_id] != 1:
            yield f"{message_id} arrived, and has succeeded {succeeded[message_id]} times"
    for message_id in succeeded.keys() - arrived.keys():
        yield f"{message_id} has succeeded, and never arrived"


@dataclass
class Watched:
    """The books of one dashboard."""

    #: What it has subscribed to.
    pattern: str
    #: Ids and types, in the order in which they came.
    events: list[tuple[int, str]] = field(default_factory=list)
    #: Messages that are neither events nor of a stream that lacks nothing, such as a gap.
    unexpected: list[str] = field(default_factory=list)

    def takes(self, event_type: str) -> bool:
        return self.pattern in patterns_matching(event_type)


def misled(log: Sequence[tuple[int, str]], dashboards: Sequence[Watched]) -> Iterator[str]:
    """Yield a line for whatever a dashboard was sent otherwise than the log has it.

    Args:
        log: ids and types of all events, in order.
    """
    for dashboard in dashboards:
        who = f"the dashboard of {dashboard.pattern}"
        wanted = [event for event in log if dashboard.takes(event[1])]
        yield from (f"{who} was sent {message}" for message in dashboard.unexpected)
        yield from (f"{who} missed {each}" for each in sorted({*wanted} - {*dashboard.events}))
        yield from (f"{who} was sent {each}" for each in sorted({*dashboard.events} - {*wanted}))
        if len(set(dashboard.events)) < len(dashboard.events):
            yield f"{who} was sent an event twice"
        if dashboard.events != sorted(dashboard.events):
            yield f"{who} was sent events in another order than that of their ids"
