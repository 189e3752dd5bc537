"""Compare the records of application, receivers, database and clients. Pure."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from bridge.events import patterns_matching


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that a receiver has read completely."""

    #: The header webhook-id, of the form evt_<event>_wh_<webhook>.
    message_id: str
    #: The header X-Webhook-Id.
    webhook_id: str
    event_type: str
    body: bytes
    #: Whether both signatures were valid.
    verified: bool
    #: Whether the receiver sent, or was about to send, a complete 2xx head.
    accepted: bool

    @property
    def event_id(self) -> int:
        return int(self.message_id.split("_")[1])

    @property
    def key(self) -> str | None:
        """The application's key; None for the bridge's own events, and those set aside."""
        if self.event_type != "user.created":
            return None
        payload = json.loads(self.body)
        return None if "_capture_error" in payload else str(payload["username"])


@dataclass
class Account:
    """The record of one receiver."""

    name: str
    #: Whether it answers 200 at once and keeps connections open.
    honest: bool
    ordered: bool
    #: Which keys it must receive.
    takes: Callable[[str], bool]
    #: The webhook's settings that select them.
    event_type: str = "user.created"
    filter: str | None = None
    webhook_id: int = 0
    arrivals: list[Arrival] = field(default_factory=list)

    def firsts(self) -> list[Arrival]:
        """Return the first arrival of each delivery, in order."""
        firsts: dict[str, Arrival] = {}
        for arrival in self.arrivals:
            firsts.setdefault(arrival.message_id, arrival)
        return list(firsts.values())

    @property
    def duplicates(self) -> int:
        return len(self.arrivals) - len({arrival.message_id for arrival in self.arrivals})


@dataclass(frozen=True)
class Books:
    """The record of the application."""

    committed: Collection[str]
    unknown: Collection[str]
    rolled_back: Collection[str]
    #: Keys that come later than in the order of commits.
    late: Collection[str] = ()


def lost(books: Books, accounts: Sequence[Account]) -> list[str]:
    """Return a line for each committed key that a receiver should have accepted and did not."""
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
    """Return how many distinct deliveries of keys were accepted."""
    return sum(
        len({arrival.key for arrival in account.arrivals if arrival.accepted} - {None})
        for account in accounts
    )


def contradictions(
    books: Books, accounts: Sequence[Account], *, in_flight_at_faults: int
) -> Iterator[str]:
    """Yield a line for each contradiction between application and receivers, except losses."""
    possible = {*books.committed, *books.unknown}
    for account in accounts:
        yield from _of_one(account, possible, set(books.rolled_back))
        if account.ordered:
            yield from _disorder(account, set(books.late))
    # A receiver that answers at once gets a delivery again only if the response or its settling was
    # lost, which can happen only to deliveries in flight at a fault.
    repeated = sum(account.duplicates for account in accounts if account.honest)
    if repeated > in_flight_at_faults:
        yield (
            f"honest receivers got {repeated} duplicates, but only {in_flight_at_faults} of their"
            " deliveries were in flight at faults"
        )


def _of_one(account: Account, possible: set[str], rolled_back: set[str]) -> Iterator[str]:
    first_by_id: dict[str, Arrival] = {}
    id_by_key: dict[str, str] = {}
    for arrival in account.arrivals:
        what = f"{account.name}: {arrival.message_id}"
        if not arrival.verified:
            yield f"{what} has an invalid signature"
        if (
            arrival.webhook_id != str(account.webhook_id)
            or arrival.message_id != f"evt_{arrival.event_id}_wh_{account.webhook_id}"
        ):
            yield f"{what} came with X-Webhook-Id {arrival.webhook_id}"
        first = first_by_id.setdefault(arrival.message_id, arrival)
        if (first.body, first.event_type) != (arrival.body, arrival.event_type):
            yield f"{what} was repeated with another body"
        key = arrival.key
        if key is None:
            continue
        if key in rolled_back:
            yield f"{what} contains {key}, which was rolled back"
        elif key not in possible:
            yield f"{what} contains {key}, which was never written"
        elif not account.takes(key):
            yield f"{what} contains {key}, which its filter excludes"
        if id_by_key.setdefault(key, arrival.message_id) != arrival.message_id:
            yield f"{what} contains {key}, as did {id_by_key[key]}"


def _disorder(account: Account, late: set[str]) -> Iterator[str]:
    firsts = account.firsts()
    for before, after in pairwise(firsts):
        if after.event_id < before.event_id:
            yield f"{account.name}: {after.message_id} first arrived after {before.message_id}"
    # One connection wrote all of them, so commits are in the order of the numbers.
    numbers = [
        int(key.removeprefix("u"))
        for first in firsts
        if (key := first.key) is not None and key not in late
    ]
    if numbers != sorted(numbers):
        yield f"{account.name}: keys arrived out of commit order"


@dataclass(frozen=True)
class Record:
    """The database's state at the end."""

    #: Webhook, event and status of each row of webhook_deliveries.
    deliveries: Sequence[tuple[int, int, str]]
    #: Webhook, event, and whether the previous lease was still valid, for every lease.
    leases: Sequence[tuple[int, int, bool]]
    #: Unfinished deliveries, and how many of them are leased.
    pending: int
    leased: int
    #: The sum of webhooks.delivered_count.
    delivered_count: int
    #: ID and type of each event in the log, in order.
    log: Sequence[tuple[int, str]]


def disagreements(record: Record, accounts: Sequence[Account]) -> Iterator[str]:
    """Yield a line for each contradiction between database and receivers."""
    if record.pending or record.leased:
        yield f"{record.pending} deliveries are pending at the end, {record.leased} of them leased"
    succeeded = Counter(
        f"evt_{event}_wh_{webhook}"
        for webhook, event, status in record.deliveries
        if status == "success"
    )
    if failed := sum(status == "failed" for *_, status in record.deliveries):
        yield f"{failed} deliveries failed"
    if record.delivered_count != succeeded.total():
        yield (
            f"webhooks.delivered_count adds up to {record.delivered_count}, but"
            f" {succeeded.total()} deliveries succeeded"
        )
    leases = Counter(f"evt_{event}_wh_{webhook}" for webhook, event, _ in record.leases)
    for webhook, event, overlaps in record.leases:
        if overlaps:
            yield f"evt_{event}_wh_{webhook} was leased while another lease was valid"
    arrived: Counter[str] = Counter()
    for account in accounts:
        ids = Counter(arrival.message_id for arrival in account.arrivals)
        arrived += ids
        if account.honest:
            yield from (
                f"{account.name}: {message_id} arrived {count} times on {leases[message_id]} leases"
                for message_id, count in ids.items()
                if count > leases[message_id]
            )
    for message_id in arrived:
        if succeeded[message_id] != 1:
            yield f"{message_id} arrived, but succeeded {succeeded[message_id]} times"
    for message_id in succeeded.keys() - arrived.keys():
        yield f"{message_id} succeeded, but never arrived"


@dataclass
class Watched:
    """The record of one client."""

    #: The pattern of its subscription.
    pattern: str
    #: IDs and types, in order of arrival.
    events: list[tuple[int, str]] = field(default_factory=list)
    #: Messages that a complete stream does not contain, such as a gap.
    unexpected: list[str] = field(default_factory=list)

    def takes(self, event_type: str) -> bool:
        return self.pattern in patterns_matching(event_type)


def misled(log: Sequence[tuple[int, str]], dashboards: Sequence[Watched]) -> Iterator[str]:
    """Yield a line for each difference between the log and what a client received.

    Args:
        log: IDs and types of all events, in order.
    """
    for dashboard in dashboards:
        who = f"the dashboard of {dashboard.pattern}"
        wanted = [event for event in log if dashboard.takes(event[1])]
        yield from (f"{who} received {message}" for message in dashboard.unexpected)
        yield from (f"{who} missed {each}" for each in sorted({*wanted} - {*dashboard.events}))
        yield from (f"{who} received {each}" for each in sorted({*dashboard.events} - {*wanted}))
        if len(set(dashboard.events)) < len(dashboard.events):
            yield f"{who} received an event twice"
        if dashboard.events != sorted(dashboard.events):
            yield f"{who} received events out of ID order"
