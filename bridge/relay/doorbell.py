"""The doorbell's state machine: when the application rings and when the leader polls.

A commit that rings by NOTIFY takes a cluster-wide lock until its WAL is flushed, so commits that
ring finish one at a time. At a low rate of events the application should ring: a ring arrives
within milliseconds and an idle bridge costs nothing. At a high rate the leader polls and nothing
rings, as a network card's driver turns interrupts off under load. The flag ``bridge.doorbell``
tells the triggers whether to ring.

    state      flag   leaves when
    RINGING    ring   more than BUSY_EVENTS came within BUSY_SECONDS: to QUIET
    QUIET      quiet  fewer than CALM_EVENTS came within CALM_SECONDS: to REARMING
    REARMING   ring   all transactions in flight when the flag was set have ended: to RINGING;
                      or it is busy again: to QUIET

A trigger writes its row first and reads the flag second. So a transaction that saw "quiet", and
does not ring, had its transaction id before the flag was set to ring. REARMING keeps polling until
every transaction id given out by then has ended and a later drain found nothing more.

This module does not access the database: it takes the results of drains and returns what to do.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Mode = Literal["adaptive", "notify", "poll"]

#: Above this rate, polling is cheaper than a ring for each event.
BUSY_EVENTS = 20
BUSY_SECONDS = 0.1
#: Below this rate, ringing is cheaper. It is half of the rate above, to avoid flapping.
CALM_EVENTS = 20
CALM_SECONDS = 0.2
#: Longest poll interval while an old transaction keeps the doorbell in REARMING.
REARMING_POLL_SECONDS = 0.1


class State(Enum):
    """How the leader learns of events."""

    RINGING = "ringing"
    QUIET = "quiet"
    REARMING = "rearming"


@dataclass(frozen=True, slots=True)
class Drained:
    """The result of one drain.

    Attributes:
        events: the number of events it took.
        exhaustive: whether it searched everywhere and left nothing.
        xmin: oldest transaction in flight in its snapshot.
        next_xid: greater than every transaction id given out before the snapshot.
    """

    events: int
    exhaustive: bool
    xmin: int
    next_xid: int


class Doorbell:
    """The state of the doorbell while one bridge leads.

    Args:
        mode: adaptive, notify (always ring) or poll (never ring).
        poll_seconds: longest pause while the application rings, as a safety net, and longest pause
            of an idle bridge in mode ``poll``.
        quiet_poll_seconds: pause between two drains while the doorbell is quiet.
    """

    def __init__(self, mode: Mode, *, poll_seconds: float, quiet_poll_seconds: float) -> None:
        self._mode = mode
        self._poll_seconds = poll_seconds
        self._quiet_poll_seconds = min(quiet_poll_seconds, poll_seconds)
        self.state = State.QUIET if mode == "poll" else State.REARMING
        # Once xmin reaches this id, every transaction that may have seen "quiet" has ended.
        self._horizon: int | None = None
        self._window_began = -float("inf")
        self._window_events = 0
        self._idle_drains = 0

    @property
    def is_quiet(self) -> bool:
        """The value of the flag, which the caller must set before the next drain."""
        return self.state is State.QUIET

    @property
    def pause_seconds(self) -> float:
        """How long to wait before the next drain unless the application rings."""
        match self.state:
            case State.RINGING:
                return self._poll_seconds
            case State.REARMING:
                return self._backed_off(REARMING_POLL_SECONDS)
            case State.QUIET if self._mode == "poll":
                return self._backed_off(self._poll_seconds)
            case State.QUIET:
                return self._quiet_poll_seconds

    def record(self, now: float, drained: Drained) -> None:
        """Update the state from the result of a drain.

        Args:
            now: seconds of a monotonic clock.
        """
        self._idle_drains = 0 if drained.events else self._idle_drains + 1
        if self._mode == "poll":
            return
        if self.state is State.QUIET:
            self._window_events += drained.events
            if now - self._window_began >= CALM_SECONDS:
                calm = self._window_events < CALM_EVENTS
                self._open_window(now)
                if calm:
                    self.state = State.REARMING
                    self._horizon = None
            return

        if now - self._window_began >= BUSY_SECONDS:
            self._open_window(now)
        # A drain that found nothing also counts, so that stray rings cannot keep the bridge busy.
        self._window_events += max(drained.events, 1)
        if self._mode == "adaptive" and self._window_events > BUSY_EVENTS:
            self.state = State.QUIET
            self._open_window(now)
        elif self.state is State.REARMING:
            if self._horizon is None:
                self._horizon = drained.next_xid
            if drained.exhaustive and drained.xmin >= self._horizon:
                self.state = State.RINGING

    def _open_window(self, now: float) -> None:
        self._window_began = now
        self._window_events = 0

    def _backed_off(self, longest_seconds: float) -> float:
        """Return a pause that doubles with every drain that found nothing."""
        doublings = min(self._idle_drains, 30)
        return min(self._quiet_poll_seconds * 2.0**doublings, longest_seconds, self._poll_seconds)
