"""The demo's books: what had to arrive where, what arrived, and what does not add up.  (pure)"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping

from bridge.events import patterns_matching

#: What tells two events of one type apart. An event that recurs with the same values, such as a
#: ticket that is closed twice, is told apart by how often it occurs.
KEY_FIELDS: Mapping[str, tuple[str, ...]] = {
    "user.created": ("user_id",),
    "transaction.created": ("transaction_id",),
    "payment.completed": ("transaction_id",),
    "ticket.created": ("ticket_id",),
    "ticket.status_changed": ("ticket_id", "old_status", "new_status"),
    "ticket.message_added": ("message_id",),
}

#: An event's type and what identifies it among those of its type.
Key = tuple[str, ...]

# How many ids of arrivals are remembered to recognise one that comes again, in each place. A demo
# may run for days; what comes back after that many others still counts as unexpected.
_REMEMBERED_IDS = 100_000
_LATENCIES_KEPT = 400


def identify(event_type: str, payload: Mapping[str, object]) -> Key:
    """Return what identifies an event: its type and its key fields, or its whole payload."""
    fields = KEY_FIELDS.get(event_type)
    if fields is None:
        return event_type, json.dumps(payload, sort_keys=True)
    return event_type, *(json.dumps(payload.get(field), sort_keys=True) for field in fields)


class Account:
    """What one place had to get and what it got, as multisets that cancel out.

    Commits and arrivals may be entered in either order: an event can reach a client before the
    bot's thread has told the ledger about the commit. Only what is open takes memory.
    """

    def __init__(self) -> None:
        #: Arrivals that some commit announced.
        self.matched = 0
        #: Arrivals with an id that had arrived before.
        self.duplicates = 0
        #: Arrivals with an id of their own.
        self.distinct = 0
        #: Events that have not arrived, and arrivals that nobody has committed.
        self.missing = 0
        self.unexpected = 0
        #: Seconds from commit to arrival of the last few hundred.
        self.latencies: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._waiting: dict[Key, deque[float]] = {}
        self._early: dict[Key, deque[float]] = {}
        self._seen: dict[object, None] = {}

    def expect(self, key: Key, at: float) -> None:
        """Enter an event that was committed at this time and has to arrive here."""
        arrived_at = _take(self._early, key)
        if arrived_at is None:
            self._waiting.setdefault(key, deque()).append(at)
            self.missing += 1
        else:
            self.unexpected -= 1
            self._match(arrived_at - at)

    def arrive(self, arrival_id: object, key: Key, at: float) -> float | None:
        """Enter an arrival; return its seconds since the commit, None where that is not known."""
        if arrival_id in self._seen:
            self.duplicates += 1
            return None
        self._seen[arrival_id] = None
        if len(self._seen) > _REMEMBERED_IDS:
            del self._seen[next(iter(self._seen))]
        self.distinct += 1
        committed_at = _take(self._waiting, key)
        if committed_at is None:
            self._early.setdefault(key, deque()).append(at)
            self.unexpected += 1
            return None
        self.missing -= 1
        return self._match(at - committed_at)

    def _match(self, latency: float) -> float:
        self.matched += 1
        # Below zero where the event overtook the answer to the bot's own COMMIT.
        latency = max(0.0, latency)
        self.latencies.append(latency)
        return latency

    def overdue(self, before: float) -> int:
        """Return how many of the missing were committed before this time."""
        count = 0
        for times in self._waiting.values():  # in order of commits
            if times[0] >= before:
                break
            count += sum(time < before for time in times)
        return count

    def missing_keys(self) -> list[Key]:
        """Return the events that have not arrived, oldest first."""
        return [key for key, times in self._waiting.items() for _ in times]

    def unexpected_keys(self) -> list[Key]:
        """Return the arrivals that nobody has committed."""
        return [key for key, times in self._early.items() for _ in times]


class Ledger:
    """The books of one demo: the stream's account and one for each webhook.

    ``webhooks`` maps the name of each to the event type or pattern that it subscribes to.
    """

    def __init__(self, webhooks: Mapping[str, str]) -> None:
        self.events_committed = 0
        self.stream = Account()
        self.webhooks = {name: Account() for name in webhooks}
        self._patterns = dict(webhooks)

    def committed(self, event_type: str, payload: Mapping[str, object], at: float) -> None:
        """Enter an event that the bot committed: it must be streamed, and delivered where asked."""
        key = identify(event_type, payload)
        self.events_committed += 1
        self.stream.expect(key, at)
        choosing = patterns_matching(event_type)
        for name, pattern in self._patterns.items():
            if pattern in choosing:
                self.webhooks[name].expect(key, at)

    def streamed(
        self, event_id: int, event_type: str, payload: Mapping[str, object], at: float
    ) -> float | None:
        """Enter an event that the WebSocket client got; return its seconds since the commit."""
        return self.stream.arrive(event_id, identify(event_type, payload), at)

    def verified(
        self,
        webhook: str,
        webhook_id: str,
        event_type: str,
        payload: Mapping[str, object],
        at: float,
    ) -> float | None:
        """Enter a delivery with good signatures; return its seconds since the commit."""
        return self.webhooks[webhook].arrive(webhook_id, identify(event_type, payload), at)

    @property
    def accounts(self) -> list[Account]:
        """The stream's account and those of the webhooks."""
        return [self.stream, *self.webhooks.values()]

    @property
    def deliveries_verified(self) -> int:
        """How many different deliveries were verified."""
        return sum(account.distinct for account in self.webhooks.values())

    @property
    def lost(self) -> int:
        """How many events and deliveries have not arrived (yet)."""
        return sum(account.missing for account in self.accounts)

    @property
    def unexpected(self) -> int:
        """How many arrivals nobody has committed (yet)."""
        return sum(account.unexpected for account in self.accounts)

    @property
    def duplicates(self) -> int:
        """How many arrivals repeated an earlier one's id."""
        return sum(account.duplicates for account in self.accounts)

    def overdue(self, before: float) -> int:
        """Return how many of the missing were committed before this time."""
        return sum(account.overdue(before) for account in self.accounts)

    def summary(self) -> dict[str, int]:
        """Return the five figures that the demo ends with."""
        return {
            "events_committed": self.events_committed,
            "ws_received": self.stream.matched,
            "deliveries_verified": self.deliveries_verified,
            "lost": self.lost,
            "duplicates": self.duplicates,
        }

    def discrepancies(self, most: int = 5) -> list[str]:
        """Return a line for each of the first few things that do not add up."""
        lines = []
        places = {"the stream": self.stream, **self.webhooks}
        for place, account in places.items():
            lines += [f"{place}: {' '.join(key)} never came" for key in account.missing_keys()]
            lines += [
                f"{place}: {' '.join(key)} was not expected" for key in account.unexpected_keys()
            ]
        return lines[:most]


def percentile(values: deque[float], share: float) -> float | None:
    """Return the value below which this share of the values lies; None where there are none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _take(times_by_key: dict[Key, deque[float]], key: Key) -> float | None:
    """Remove and return the oldest time entered under a key, or None."""
    times = times_by_key.get(key)
    if times is None:
        return None
    oldest = times.popleft()
    if not times:
        del times_by_key[key]
    return oldest
