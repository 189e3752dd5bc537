"""Rate limits per key."""

from collections.abc import Hashable


class Throttle:
    """Limits each key to a rate and a burst, by the generic cell rate algorithm.

    For each key it stores the time up to which the key has used its allowance. It stores at most
    ``most_keys``; beyond that, the key that has been idle longest starts afresh.

    Args:
        per_second: sustained rate.
        burst: how many may come at the same time after a pause.
    """

    def __init__(self, per_second: float, burst: int, *, most_keys: int = 10_000) -> None:
        self._interval = 1 / per_second
        self._tolerance = (burst - 1) * self._interval
        self._most_keys = most_keys
        self._used_until: dict[Hashable, float] = {}

    def take(self, key: Hashable, now: float) -> float:
        """Use one unit of the key's allowance and return 0, or return the seconds to wait for one.

        Args:
            now: in seconds, by any monotonic clock.
        """
        if wait := self.wait(key, now):
            return wait
        # Move the key to the end: the dictionary is in order of last use.
        used_until = max(self._used_until.pop(key, now), now)
        self._used_until[key] = used_until + self._interval
        if len(self._used_until) > self._most_keys:
            del self._used_until[next(iter(self._used_until))]
        return 0.0

    def wait(self, key: Hashable, now: float) -> float:
        """Return the seconds until the key has allowance; 0 if it has some now."""
        wait = self._used_until.get(key, now) - now - self._tolerance
        # Ignore rounding errors of the sums.
        return wait if wait > self._interval * 1e-6 else 0.0
