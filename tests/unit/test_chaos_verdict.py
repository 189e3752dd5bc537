"""The verdict of the chaos test notices every kind of problem."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.stress.chaos.verdict import (
    Account,
    Arrival,
    Books,
    Record,
    Watched,
    contradictions,
    delivered,
    disagreements,
    lost,
    misled,
)

BOOKS = Books(committed=["u1", "u2", "u3"], unknown=["u4"], rolled_back=["u5"])
GOOD = Record(
    deliveries=[(7, event, "success") for event in (1, 2, 3)],
    leases=[(7, event, False) for event in (1, 2, 3)],
    pending=0,
    leased=0,
    delivered_count=3,
    log=[(each, "user.created") for each in (1, 2, 3)],
)


def arrival(number: int, **changes: object) -> Arrival:
    good = Arrival(
        message_id=f"evt_{number}_wh_7",
        webhook_id="7",
        event_type="user.created",
        body=json.dumps({"username": f"u{number}"}).encode(),
        verified=True,
        accepted=True,
    )
    return replace(good, **changes)  # type: ignore[arg-type]


def account(*arrivals: Arrival, ordered: bool = False) -> Account:
    return Account(
        "hook",
        honest=True,
        ordered=ordered,
        takes=lambda key: key != "u3" or not ordered,
        webhook_id=7,
        arrivals=list(arrivals),
    )


THREE = [arrival(1), arrival(2), arrival(3)]


def judged(*arrivals: Arrival, in_flight: int = 0, ordered: bool = False) -> Sequence[str]:
    of = account(*arrivals, ordered=ordered)
    return [*lost(BOOKS, [of]), *contradictions(BOOKS, [of], in_flight_at_faults=in_flight)]


def test_correct_run_passes() -> None:
    assert judged(*THREE) == []
    assert judged(*THREE, arrival(4)) == [], "a commit without an answer may have happened"
    assert judged(*THREE, arrival(2), in_flight=1) == []
    assert judged(arrival(1), arrival(2), ordered=True) == []
    assert list(disagreements(GOOD, [account(*THREE)])) == []
    assert delivered([account(*THREE, arrival(2))]) == 3


@pytest.mark.parametrize(
    ("arrivals", "complaint"),
    [
        (THREE[:2], "u3 was committed and never arrived"),
        ([*THREE[:2], arrival(3, accepted=False)], "u3 was committed and never arrived"),
        ([*THREE, arrival(5)], "contains u5, which was rolled back"),
        ([*THREE, arrival(6)], "contains u6, which was never written"),
        ([*THREE, arrival(8, body=THREE[0].body)], "evt_8_wh_7 contains u1, as did evt_1_wh_7"),
        ([*THREE, arrival(3, body=THREE[2].body + b" ")], "evt_3_wh_7 was repeated with another"),
        ([*THREE, arrival(3, verified=False)], "evt_3_wh_7 has an invalid signature"),
        ([*THREE[:2], arrival(3, webhook_id="8")], "evt_3_wh_7 came with X-Webhook-Id 8"),
        ([*THREE, arrival(3)], "got 1 duplicates, but only 0 of their"),
    ],
)
def test_commits_and_arrivals_must_match(arrivals: list[Arrival], complaint: str) -> None:
    assert any(complaint in line for line in judged(*arrivals)), judged(*arrivals)


def test_ordered_webhook_must_arrive_in_order() -> None:
    assert judged(arrival(1), arrival(2), arrival(1), ordered=True, in_flight=1) == []
    [*lines] = judged(arrival(2), arrival(1), ordered=True)
    assert "hook: evt_1_wh_7 first arrived after evt_2_wh_7" in lines
    assert "hook: keys arrived out of commit order" in lines


def test_retried_dead_letters_may_come_late() -> None:
    retried = arrival(9, body=THREE[0].body)
    in_order = account(arrival(2), retried, ordered=True)
    books = replace(BOOKS, late=["u1"])
    assert list(contradictions(books, [in_order], in_flight_at_faults=0)) == []
    [line] = contradictions(BOOKS, [in_order], in_flight_at_faults=0)
    assert line == "hook: keys arrived out of commit order"
    # In place of the event that was set aside.
    substitute = arrival(8, body=b'{"_capture_error": "x", "dead_letter": 1}')
    assert judged(*THREE, substitute) == []
    assert lost(BOOKS, [account(*THREE[:2], substitute)]) != []


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (replace(GOOD, pending=1), "1 deliveries are pending at the end"),
        (replace(GOOD, leased=1), "1 of them leased"),
        (replace(GOOD, delivered_count=4), "webhooks.delivered_count adds up to 4"),
        (replace(GOOD, deliveries=GOOD.deliveries[:2]), "evt_3_wh_7 arrived, but succeeded 0"),
        (
            replace(GOOD, deliveries=[*GOOD.deliveries, (7, 3, "success")]),
            "evt_3_wh_7 arrived, but succeeded 2 times",
        ),
        (
            replace(GOOD, deliveries=[*GOOD.deliveries, (7, 4, "success")]),
            "evt_4_wh_7 succeeded, but never arrived",
        ),
        (replace(GOOD, deliveries=[*GOOD.deliveries, (7, 4, "failed")]), "1 deliveries failed"),
        (replace(GOOD, leases=GOOD.leases[:2]), "evt_3_wh_7 arrived 1 times on 0 leases"),
        (
            replace(GOOD, leases=[*GOOD.leases, (7, 3, True)]),
            "evt_3_wh_7 was leased while another lease was valid",
        ),
    ],
)
def test_database_must_match_the_receivers(record: Record, complaint: str) -> None:
    lines = list(disagreements(record, [account(*THREE)]))
    assert any(complaint in line for line in lines), lines


LOG = [(1, "user.created"), (2, "ticket.created"), (4, "user.created")]


@pytest.mark.parametrize(
    ("events", "complaints"),
    [
        ([1, 4], []),
        ([1], ["missed (4, 'user.created')"]),
        ([1, 3, 4], ["received (3, 'user.created')"]),
        ([1, 1, 4], ["received an event twice"]),
        ([4, 1], ["received events out of ID order"]),
        ([], ["missed (1, 'user.created')", "missed (4, 'user.created')"]),
    ],
)
def test_misled_dashboard_is_noticed(events: list[int], complaints: list[str]) -> None:
    watched = Watched("user.*", [(each, "user.created") for each in events])
    assert list(misled(LOG, [watched])) == [
        f"the dashboard of user.* {each}" for each in complaints
    ]


def test_gap_without_missing_events_is_noticed() -> None:
    assert list(misled([], [Watched("*", unexpected=['{"type": "gap"}'])])) == [
        'the dashboard of * received {"type": "gap"}'
    ]
