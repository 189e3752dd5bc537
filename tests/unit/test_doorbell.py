"""The doorbell rings when events are rare, is quiet when they are many, and misses none between."""

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.relay.doorbell import (
    BUSY_EVENTS,
    BUSY_SECONDS,
    CALM_EVENTS,
    CALM_SECONDS,
    REARMING_POLL_SECONDS,
    Doorbell,
    Drained,
    Mode,
    State,
)
from tests.unit.postgres_model import Postgres


def doorbell(mode: Mode = "adaptive") -> Doorbell:
    return Doorbell(mode, poll_seconds=1.0, quiet_poll_seconds=0.005)


def drained(
    events: int = 0, *, exhaustive: bool = True, xmin: int = 100, next_xid: int = 100
) -> Drained:
    return Drained(events, exhaustive, xmin, next_xid)


def state(bell: Doorbell) -> State:
    return bell.state


def ringing() -> Doorbell:
    bell = doorbell()
    bell.record(0.0, drained())
    assert state(bell) is State.RINGING
    return bell


def quiet() -> Doorbell:
    bell = ringing()
    bell.record(1.0, drained(BUSY_EVENTS + 1))
    assert state(bell) is State.QUIET
    return bell


# --- from one state to the next


def test_new_leader_polls_until_every_transaction_rings() -> None:
    bell = doorbell()
    assert (bell.state, bell.is_quiet) == (State.REARMING, False)
    bell.record(0.0, drained(xmin=100, next_xid=101))
    assert state(bell) is State.REARMING
    bell.record(0.1, drained(xmin=101, next_xid=105))
    assert state(bell) is State.RINGING


def test_rare_events_keep_it_ringing() -> None:
    bell = ringing()
    for number in range(200):
        bell.record(1 + number / 100, drained(1))
        assert state(bell) is State.RINGING
    assert bell.pause_seconds == 1.0


def test_burst_of_events_makes_it_quiet() -> None:
    bell = ringing()
    bell.record(1.0, drained(BUSY_EVENTS))
    assert state(bell) is State.RINGING
    bell.record(1.0 + BUSY_SECONDS / 2, drained(1))
    assert state(bell) is State.QUIET
    assert (bell.is_quiet, bell.pause_seconds) == (True, 0.005)


def test_many_single_events_make_it_quiet() -> None:
    bell = ringing()
    for number in range(BUSY_EVENTS + 1):
        bell.record(1 + number * BUSY_SECONDS / (2 * BUSY_EVENTS), drained(1))
    assert state(bell) is State.QUIET


def test_stray_rings_make_it_quiet() -> None:
    bell = ringing()
    for number in range(BUSY_EVENTS + 1):
        bell.record(1 + number * 0.001, drained(0))
    assert state(bell) is State.QUIET


def test_it_stays_quiet_and_polls_steadily_under_load() -> None:
    bell = quiet()
    for number in range(1, 1000):
        bell.record(1 + number * 0.005, drained(number % 2))
        assert (bell.state, bell.pause_seconds) == (State.QUIET, 0.005)


def test_it_rings_again_when_events_become_rare() -> None:
    bell = quiet()
    bell.record(1 + CALM_SECONDS / 2, drained(CALM_EVENTS - 1))
    assert state(bell) is State.QUIET
    bell.record(1.001 + CALM_SECONDS, drained(0))
    assert (bell.state, bell.is_quiet) == (State.REARMING, False)


@pytest.mark.parametrize("rate", [10, 60, 100, 120, 150, 190])
def test_steady_rate_never_makes_it_flap(rate: int) -> None:
    for bell in (ringing(), quiet()):
        switches = 0
        due, now = 1.0, 1.0
        while now < 6.0:
            before = bell.is_quiet
            # A ring for each event, or a poll after the pause.
            now = now + bell.pause_seconds if bell.is_quiet else due
            events = 0
            while due <= now:
                events += 1
                due += 1 / rate
            bell.record(now, drained(events))
            switches += bell.is_quiet != before
        assert switches <= 1


def test_burst_while_rearming_makes_it_quiet_again() -> None:
    bell = quiet()
    bell.record(2.0, drained(0))
    bell.record(2.1, drained(0, xmin=1))
    assert state(bell) is State.REARMING
    bell.record(2.2, drained(BUSY_EVENTS + 1, xmin=1))
    assert state(bell) is State.QUIET


def test_rearming_waits_only_for_earlier_transactions() -> None:
    bell = quiet()
    bell.record(2.0, drained(0, xmin=50, next_xid=60))
    bell.record(2.1, drained(0, xmin=50, next_xid=70))
    for xmin in (51, 69):
        bell.record(2.2, drained(0, xmin=xmin, next_xid=90))
        assert state(bell) is State.REARMING
    bell.record(2.3, drained(0, xmin=70, next_xid=95))
    assert state(bell) is State.RINGING


def test_rearming_does_not_end_with_an_incomplete_drain() -> None:
    bell = doorbell()
    bell.record(0.0, drained(1, exhaustive=False))
    assert state(bell) is State.REARMING
    bell.record(0.1, drained())
    assert state(bell) is State.RINGING


def test_polling_backs_off_while_a_transaction_stays_open() -> None:
    bell = doorbell()
    pauses = []
    for number in range(100):
        bell.record(number * 0.1, drained(xmin=1))
        pauses.append(bell.pause_seconds)
    assert pauses == sorted(pauses)
    assert pauses[0] == 0.01
    assert pauses[-1] == REARMING_POLL_SECONDS
    bell.record(20.0, drained(1, xmin=1))
    assert bell.pause_seconds == 0.005


# --- the other modes


def test_mode_notify_never_becomes_quiet() -> None:
    bell = doorbell("notify")
    for number in range(100):
        bell.record(number * 0.001, drained(1000))
        assert not bell.is_quiet
    assert state(bell) is State.RINGING


def test_mode_poll_never_rings_and_polls_faster_under_load() -> None:
    bell = doorbell("poll")
    for number in range(100):
        assert bell.is_quiet
        bell.record(number, drained(0))
    assert bell.pause_seconds == 1.0
    bell.record(100.0, drained(1))
    assert bell.pause_seconds == 0.005


# --- nothing is missed


@dataclass
class _Leader:
    """A leader that waits for a ring forever: it has no safety net."""

    bell: Doorbell = field(default_factory=doorbell)
    now: float = 0.0
    rung: bool = False
    #: The result of a drain that the doorbell has not recorded yet; None between two drains.
    seen: Drained | None = None
    #: Whether the flag still has to be set.
    flag_is_due: bool = True


class _World:
    """Writers whose triggers read a flag, and a leader that may be replaced at any moment."""

    def __init__(self) -> None:
        self.database = Postgres()
        self.flag_is_quiet = True
        self.leader = _Leader()

    def read_flag(self, which: int) -> None:
        """Let a trigger read the flag, at any time after it wrote its row."""
        if transaction := self.database.pick(which):
            transaction.rings |= not self.flag_is_quiet

    def end(self, which: int, *, commit: bool) -> None:
        ended = self.database.end(which, commit=commit)
        if commit and ended is not None and ended.rings:
            self.leader.rung = True

    def work(self, seconds: float) -> None:
        """Take the leader's next step: set the flag, drain, or record the result."""
        leader = self.leader
        leader.now += seconds
        if leader.flag_is_due:
            self.flag_is_quiet = leader.bell.is_quiet
            leader.flag_is_due = False
        elif leader.seen is None:
            leader.rung = False
            taken = len(self.database.visible)
            self.database.visible.clear()
            leader.seen = Drained(taken, True, self.database.snapshot_xmin, self.database.next_xid)
        else:
            leader.bell.record(leader.now, leader.seen)
            leader.seen = None
            leader.flag_is_due = leader.bell.is_quiet != self.flag_is_quiet

    @property
    def sleeps(self) -> bool:
        """Whether the leader waits only for a ring."""
        leader = self.leader
        return (
            leader.bell.state is State.RINGING
            and leader.seen is None
            and not leader.flag_is_due
            and not leader.rung
        )


_WHICH = st.integers(0, 9)
_SECONDS = st.sampled_from([0.001, 0.05, 0.3])
_STEPS = st.lists(
    st.one_of(
        st.just(("begin",)),
        # One row, or a burst that makes the doorbell quiet.
        st.tuples(st.just("insert"), _WHICH, st.sampled_from([1, 1, 1, BUSY_EVENTS + 1])),
        st.tuples(st.just("read_flag"), _WHICH),
        st.tuples(st.just("commit"), _WHICH),
        st.tuples(st.just("rollback"), _WHICH),
        st.tuples(st.just("work"), _SECONDS),
        st.tuples(st.just("work"), _SECONDS),
        st.tuples(st.just("work"), _SECONDS),
        st.just(("replace",)),
    ),
    max_size=150,
)


#: A leader that has become quiet …
_TO_QUIET = [
    *[("work", 0.001)] * 3,
    *[("begin",), ("insert", 0, BUSY_EVENTS + 1), ("read_flag", 0), ("commit", 0)],
    *[("work", 0.001)] * 3,
]


@settings(max_examples=500)
@given(_STEPS)
# … and a slow writer that has seen it. No later transaction has ended, so a snapshot's xmax does
# not cover the writer.
@example(
    [
        *_TO_QUIET,
        *[("begin",), ("insert", 0, 1), ("read_flag", 0)],
        *[("work", 0.3)] * 7,
        ("commit", 0),
    ]
)
def test_leader_that_waits_for_a_ring_leaves_nothing_behind(
    steps: list[tuple[str, float]],
) -> None:
    world = _World()
    # A transaction may commit only when its triggers have read the flag.
    unread: set[int] = set()
    for name, *numbers in steps:
        which = int(numbers[0]) if numbers else 0
        picked = world.database.pick(which)
        match name:
            case "begin":
                world.database.begin()
            case "insert" if picked:
                for _ in range(int(numbers[1])):
                    world.database.insert(which)
                unread.add(picked.xid)
            case "read_flag" if picked:
                world.read_flag(which)
                unread.discard(picked.xid)
            case "commit" if picked and picked.xid not in unread:
                world.end(which, commit=True)
            case "rollback":
                world.end(which, commit=False)
            case "work":
                world.work(numbers[0])
            case "replace":
                world.leader = _Leader(now=world.leader.now)
        assert not (world.sleeps and world.database.visible), "no ring announces this event"
