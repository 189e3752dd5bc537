"""The watermark finds every committed id, however late its transaction commits."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.relay.watermark import MOST_GAPS, Gap, Watermark
from tests.unit.postgres_model import Postgres


def test_consecutive_ids_leave_no_gap() -> None:
    watermark = Watermark(0)
    watermark.record([1, 2, 3], xmin=10, next_xid=10, complete=True, gaps_scanned=True)
    assert (watermark.mark, watermark.gaps) == (3, [])


def test_ids_from_before_the_start_are_a_gap() -> None:
    watermark = Watermark(7)
    assert (watermark.mark, watermark.gaps) == (7, [Gap(1, 7, None)])
    watermark.record([2], xmin=50, next_xid=60, complete=True, gaps_scanned=True)
    assert watermark.gaps == [Gap(1, 1, 60), Gap(3, 7, 60)]


def test_gap_closes_when_earlier_transactions_have_ended() -> None:
    watermark = Watermark(0)
    watermark.record([1, 3], xmin=10, next_xid=12, complete=True, gaps_scanned=True)
    assert watermark.gaps == [Gap(2, 2, 12)]
    watermark.record([], xmin=11, next_xid=15, complete=True, gaps_scanned=True)
    assert watermark.gaps == [Gap(2, 2, 12)]
    watermark.record([], xmin=12, next_xid=15, complete=True, gaps_scanned=True)
    assert watermark.gaps == []


def test_late_commit_splits_its_gap() -> None:
    watermark = Watermark(0)
    watermark.record([10], xmin=10, next_xid=12, complete=True, gaps_scanned=True)
    watermark.record([4, 5], xmin=10, next_xid=13, complete=True, gaps_scanned=True)
    assert watermark.gaps == [Gap(1, 3, 12), Gap(6, 9, 12)]


def test_range_beyond_a_truncated_drain_stays_a_gap() -> None:
    watermark = Watermark(100)
    watermark.record([10, 20], xmin=99, next_xid=99, complete=False, gaps_scanned=True)
    # It scanned up to 20; rows may follow from 21 to 100.
    assert watermark.gaps == [Gap(1, 9, 99), Gap(11, 19, 99), Gap(21, 100, None)]
    assert watermark.mark == 100


def test_gaps_that_were_not_scanned_stay() -> None:
    watermark = Watermark(0)
    watermark.record([5], xmin=10, next_xid=12, complete=True, gaps_scanned=True)
    watermark.record([6], xmin=99, next_xid=99, complete=True, gaps_scanned=False)
    assert watermark.gaps == [Gap(1, 4, 12)]


def test_too_many_gaps_become_one() -> None:
    watermark = Watermark(0)
    every_other = list(range(2, 2 * MOST_GAPS + 6, 2))
    watermark.record(every_other, xmin=1, next_xid=9, complete=True, gaps_scanned=True)
    assert watermark.gaps == [Gap(1, every_other[-1] - 1, 9)]
    assert watermark.wide


def drain(database: Postgres, watermark: Watermark, limit: int) -> list[int]:
    """Drain like drain.sql, with the watermark's bookkeeping."""
    wanted = sorted(
        each
        for each in database.visible
        if each > watermark.mark or any(g.low <= each <= g.high for g in watermark.gaps)
    )
    taken = wanted[:limit]
    database.visible.difference_update(taken)
    watermark.record(
        taken,
        xmin=database.snapshot_xmin,
        next_xid=database.next_xid,
        complete=len(taken) < limit,
        gaps_scanned=True,
    )
    return taken


_STEPS = st.lists(
    st.one_of(
        st.just(("begin",)),
        st.tuples(st.just("insert"), st.integers(0, 9)),
        st.tuples(st.just("commit"), st.integers(0, 9)),
        st.tuples(st.just("rollback"), st.integers(0, 9)),
        st.tuples(st.just("drain"), st.integers(1, 4)),
        st.just(("restart",)),
    ),
    max_size=120,
)


@settings(max_examples=500)
@given(_STEPS)
# The newer transaction writes first and commits last, so a snapshot's xmax does not cover it.
@example(
    [
        *[("begin",), ("begin",), ("insert", 1), ("insert", 0), ("commit", 0)],
        *[("drain", 4), ("drain", 4), ("commit", 0)],
    ]
)
def test_committed_ids_are_drained_once_in_any_commit_order(
    steps: list[tuple[str, int]],
) -> None:
    database, watermark = Postgres(), Watermark(0)
    drained: list[int] = []
    for name, *numbers in steps:
        match name:
            case "begin":
                database.begin()
            case "insert":
                database.insert(numbers[0])
            case "commit" | "rollback":
                database.end(numbers[0], commit=name == "commit")
            case "drain":
                drained += drain(database, watermark, numbers[0])
            case "restart":
                watermark = Watermark(database.next_id - 1)
    while database.open:
        database.end(0, commit=True)
    while more := drain(database, watermark, 3):
        drained += more
    drain(database, watermark, 3)
    assert sorted(drained) == sorted(database.committed)
    assert len(drained) == len(set(drained))
    assert watermark.gaps == [], "nothing is in flight, so nothing can be missing"
