"""How often somebody may do something.  (pure)"""

from __future__ import annotations

from collections.abc import Hashable


class Throttle:
    """Lets each key do something so often, and a number of times at once.

    It remembers, for each key, when it would have used up what it was allowed, had it gone at just
    the allowed rate: the generic cell rate algorithm. Of ``most_keys`` at most; when there are
    more, those are forgotten that have done nothing for longest, so they begin anew.

    Args:
        per_second: how often in the long run.
        burst: how many times at once, after a pause.
    """

    def __init__(self, per_second: float, burst: int, *, most_keys: int = 10_000) -> None:
        self._interval = 1 / per_second
        self._tolerance = (burst - 1) * self._interval
        self._most_keys = most_keys
        self._used_until: dict[Hashable, float] = {}

    def take(self, key: Hashable, now: float) -> float:
        """Let the key do it once, and return 0; or return in how many seconds it may.

        Args:
            now: seconds, by any clock that goes forward.
        """
        if wait := self.wait(key, now):
            return wait
        self._set(key, max(self._used_until.get(key, now), now) + self._interval)
        return 0.0

    def wait(self, key: Hashable, now: float) -> float:
        """Return in how many seconds the key may do it; 0: now."""
        wait = self._used_until.get(key, now) - now - self._tolerance
        # By more than what adding up floats leaves behind.
        return wait if wait > self._interval * 1e-6 else 0.0

    def _set(self, key: Hashable, used_until: float) -> None:
        # At the end of the dictionary are those that did something last.
        self._used_until.pop(key, None)
        self._used_until[key] = used_until
        if len(self._used_until) > self._most_keys:
            del self._used_until[next(iter(self._used_until))]
