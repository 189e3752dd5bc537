"""Compare what the bot committed with what arrived at each place. Pure."""

import itertools
import json
from collections import deque
from collections.abc import Collection, Mapping

from bridge.events import patterns_matching

#: The fields that identify an event of a type. An event that recurs with the same values, such as a
#: ticket closed twice, is matched by count.
KEY_FIELDS: Mapping[str, tuple[str, ...]] = {
    "user.created": ("user_id",),
    "transaction.created": ("transaction_id",),
    "payment.completed": ("transaction_id",),
    "ticket.created": ("ticket_id",),
    "ticket.status_changed": ("ticket_id", "old_status", "new_status"),
    "ticket.message_added": ("message_id",),
}

#: An event's type and the values that identify it.
Key = tuple[str, ...]

# How many IDs each place remembers to detect duplicates: a demo may run for days. A duplicate that
# arrives after so many others counts as unexpected.
_REMEMBERED_IDS = 100_000
_LATENCIES_KEPT = 400
_DISCREPANCIES_SHOWN = 5


def identify(event_type: str, payload: Mapping[str, object]) -> Key:
    """Return an event's key: its type and key fields, or its whole payload."""
    fields = KEY_FIELDS.get(event_type)
    if fields is None:
        return event_type, json.dumps(payload, sort_keys=True)
    return event_type, *(json.dumps(payload.get(field), sort_keys=True) for field in fields)


class Account:
    """Expected and actual arrivals at one place, as multisets that cancel out.

    Commits and arrivals may be recorded in either order: an event can reach a client before the
    bot's thread records the commit. Only unmatched ones use memory.
    """

    def __init__(self) -> None:
        #: Arrivals that match a commit.
        self.matched = 0
        #: Arrivals with an ID that arrived before.
        self.duplicates = 0
        #: Arrivals with a new ID.
        self.distinct = 0
        #: Events that have not arrived, and arrivals without a commit.
        self.missing = 0
        self.unexpected = 0
        #: Seconds from commit to arrival, of the last few hundred.
        self.latencies: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._waiting: dict[Key, deque[float]] = {}
        self._early: dict[Key, deque[float]] = {}
        self._seen: dict[object, None] = {}

    def expect(self, key: Key, at: float) -> None:
        """Record an event that was committed at this time and must arrive."""
        arrived_at = _take(self._early, key)
        if arrived_at is None:
            self._waiting.setdefault(key, deque()).append(at)
            self.missing += 1
        else:
            self.unexpected -= 1
            self._match(arrived_at - at)

    def arrive(self, arrival_id: object, key: Key, at: float) -> float | None:
        """Record an arrival; return its seconds since the commit, if known."""
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
        # Negative if the event arrived before the bot's COMMIT returned.
        latency = max(0.0, latency)
        self.latencies.append(latency)
        return latency

    def overdue(self, before: float) -> int:
        """Return how many missing events were committed before this time."""
        count = 0
        for times in self._waiting.values():  # in order of commits
            if times[0] >= before:
                break
            count += sum(time < before for time in times)
        return count

    def discrepancies(self) -> list[str]:
        """Return a line for each missing event, oldest first, and each unexpected arrival."""
        missing = [(key, "never arrived") for key, times in self._waiting.items() for _ in times]
        early = [(key, "was unexpected") for key, times in self._early.items() for _ in times]
        return [f"{' '.join(key)} {what}" for key, what in missing + early]


class Ledger:
    """The accounts of one demo: one for the stream and one per webhook.

    Args:
        webhooks: the pattern of event types that each webhook subscribes to, by name.
    """

    def __init__(self, webhooks: Mapping[str, str]) -> None:
        self.events_committed = 0
        self.stream = Account()
        self.webhooks = {name: Account() for name in webhooks}
        self._accounts = [self.stream, *self.webhooks.values()]
        self._patterns = dict(webhooks)

    def committed(self, event_type: str, payload: Mapping[str, object], at: float) -> None:
        """Record a committed event, which must be streamed and delivered."""
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
        """Record an event on the stream; return its seconds since the commit."""
        return self.stream.arrive(event_id, identify(event_type, payload), at)

    def verified(
        self,
        webhook: str,
        webhook_id: str,
        event_type: str,
        payload: Mapping[str, object],
        at: float,
    ) -> float | None:
        """Record a delivery with valid signatures; return its seconds since the commit."""
        return self.webhooks[webhook].arrive(webhook_id, identify(event_type, payload), at)

    @property
    def deliveries_verified(self) -> int:
        """Number of distinct verified deliveries."""
        return sum(account.distinct for account in self.webhooks.values())

    @property
    def lost(self) -> int:
        """Number of events and deliveries that have not arrived yet."""
        return sum(account.missing for account in self._accounts)

    @property
    def unexpected(self) -> int:
        """Number of arrivals without a commit so far."""
        return sum(account.unexpected for account in self._accounts)

    @property
    def duplicates(self) -> int:
        """Number of arrivals with an ID that arrived before."""
        return sum(account.duplicates for account in self._accounts)

    def overdue(self, before: float) -> int:
        """Return how many missing events were committed before this time."""
        return sum(account.overdue(before) for account in self._accounts)

    def summary(self) -> dict[str, int]:
        """Return the totals that the demo prints at the end."""
        return {
            "events_committed": self.events_committed,
            "ws_received": self.stream.matched,
            "deliveries_verified": self.deliveries_verified,
            "lost": self.lost,
            "duplicates": self.duplicates,
        }

    def discrepancies(self) -> list[str]:
        """Return a line for each of the first few discrepancies."""
        places = {"the stream": self.stream, **self.webhooks}
        lines = (f"{place}: {line}" for place in places for line in places[place].discrepancies())
        return list(itertools.islice(lines, _DISCREPANCIES_SHOWN))


def percentile(values: Collection[float], share: float) -> float | None:
    """Return a percentile of the values, or None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _take(times_by_key: dict[Key, deque[float]], key: Key) -> float | None:
    """Remove and return the oldest time of a key, or None."""
    times = times_by_key.get(key)
    if times is None:
        return None
    oldest = times.popleft()
    if not times:
        del times_by_key[key]
    return oldest
