"""How long to pause between readings of figures that may be slow to count."""

from typing import Final

#: A reading takes at most one part in this many of the time, unless the longest pause forbids it.
PAUSE_FACTOR: Final = 10


def pause_after(took: float, shortest: float, longest: float) -> float:
    """Return the pause after a reading, in seconds.

    While vacuum is held back, a reading scans everything drained and settled, so its cost can grow
    a thousandfold. The longest pause is for a reading that only waited: for a lock, or for a
    database that was frozen.

    Args:
        took: the reading's duration in seconds.
        shortest: the usual pause in seconds.
        longest: the longest pause in seconds.
    """
    return min(max(shortest, PAUSE_FACTOR * took), longest)
