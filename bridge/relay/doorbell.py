"""When the application rings, and when the drainer looks by itself: the state machine, alone.

A commit that rings by NOTIFY takes a lock of the whole cluster until its WAL is flushed, so commits
that ring finish one at a time. Rare events should ring, since a ring arrives within milliseconds
and costs nothing in between; in busy times the drainer polls and nobody rings, as a network card's
driver turns interrupts off under load. The flag ``bridge.doorbell`` tells the triggers which it is.

    state      flag   leaves when
    RINGING    ring   more than BUSY_EVENTS came within BUSY_SECONDS: to QUIET
    QUIET      quiet  fewer than CALM_EVENTS came within CALM_SECONDS: to REARMING
    REARMING   ring   all that was in flight when the flag was set has ended: to RINGING;
                      or it is busy again: to QUIET

A trigger writes its row first and reads the flag second. So a transaction that saw "quiet", and
will not ring, had its transaction id before the flag was set to ring. REARMING goes on polling
until every transaction id that had been given out then has ended, and a look after that found no
more.

Nothing here touches a database: it is fed with what each drain found, and says what to do next.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Mode = Literal["adaptive", "notify", "poll"]

#: More than this many events in this time, and polling is cheaper than being rung for each.
BUSY_EVENTS = 20
BUSY_SECONDS = 0.1
#: Fewer than this many in this time, and ringing is. Half of the rate above, so as not to flap.
CALM_EVENTS = 20
CALM_SECONDS = 0.2
#: Longest pause between two looks while an old transaction keeps REARMING from its end.
REARMING_POLL_SECONDS = 0.1


class State(Enum):
    """How the drainer learns of events."""

    RINGING = "ringing"
    QUIET = "quiet"
    REARMING = "rearming"


@dataclass(frozen=True, slots=True)
class Look:
    """What one drain found.

    Attributes:
        events: how many it took.
        exhaustive: it looked everywhere and there was no more.
        xmin: oldest transaction that was in flight in its snapshot.
        next_xid: a transaction id that nobody had when the snapshot was taken; every transaction
            that had one by then has a smaller one.
    """

    events: int
    exhaustive: bool
    xmin: int
    next_xid: int


class Doorbell:
    """The doorbell as one drainer sees it, from when it begins to lead until it ends.

    Args:
        mode: adaptive; notify: always ring; poll: never ring.
        poll_seconds: the net: longest pause while the doorbell rings, and while ``poll`` is idle.
        quiet_poll_seconds: pause between two looks while it is quiet.
    """

    def __init__(self, mode: Mode, *, poll_seconds: float, quiet_poll_seconds: float) -> None:
        self._mode = mode
        self._poll_seconds = poll_seconds
        self._quiet_poll_seconds = min(quiet_poll_seconds, poll_seconds)
        self.state = State.QUIET if mode == "poll" else State.REARMING
        #: The drain after which every transaction that may have seen "quiet" has ended.
        self._horizon: int | None = None
        self._window_began = -float("inf")
        self._window_events = 0
        self._idle_looks = 0

    @property
    def is_quiet(self) -> bool:
        """What the flag has to say. Whoever runs this sets it at once, before the next drain."""
        return self.state is State.QUIET

    @property
    def hears_rings(self) -> bool:
        """Whether a ring ends the pause. While quiet, a stray one would only cost a drain."""
        return self.state is not State.QUIET

    @property
    def pause_seconds(self) -> float:
        """How long to wait before the next drain, if nobody rings."""
        match self.state:
            case State.RINGING:
                return self._poll_seconds
            case State.REARMING:
                return self._backed_off(REARMING_POLL_SECONDS)
            case State.QUIET if self._mode == "poll":
                return self._backed_off(self._poll_seconds)
            case State.QUIET:
                return self._quiet_poll_seconds

    def looked(self, now: float, look: Look) -> None:
        """Take in what a drain found, which may change the state.

        Args:
            now: seconds of any clock that does not go back.
        """
        self._idle_looks = 0 if look.events else self._idle_looks + 1
        if self._mode == "poll":
            return
        if self.state is State.QUIET:
            self._window_events += look.events
            if now - self._window_began >= CALM_SECONDS:
                calm = self._window_events < CALM_EVENTS
                self._open_window(now)
                if calm:
                    self.state = State.REARMING
                    self._horizon = None
            return

        if now - self._window_began >= BUSY_SECONDS:
            self._open_window(now)
        # A ring counts, whatever it was for: whoever rings in vain must not keep us draining.
        self._window_events += max(look.events, 1)
        if self._mode == "adaptive" and self._window_events > BUSY_EVENTS:
            self.state = State.QUIET
            self._open_window(now)
        elif self.state is State.REARMING:
            if self._horizon is None:
                self._horizon = look.next_xid
            if look.exhaustive and look.xmin >= self._horizon:
                self.state = State.RINGING

    def _open_window(self, now: float) -> None:
        self._window_began = now
        self._window_events = 0

    def _backed_off(self, longest_seconds: float) -> float:
        """Return a pause that doubles with every look that found nothing."""
        doublings = min(self._idle_looks, 30)
        return min(self._quiet_poll_seconds * 2.0**doublings, longest_seconds, self._poll_seconds)
