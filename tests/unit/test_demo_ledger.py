"""The demo's ledger matches commits with arrivals."""

from collections import deque

from bridge.demo.ledger import Ledger, identify, percentile


def signed_up(number: int) -> dict[str, object]:
    return {"user_id": number, "first_name": "Анна"}


def moved(old: str, new: str) -> dict[str, object]:
    return {"ticket_id": 7, "old_status": old, "new_status": new}


def test_event_that_arrives_everywhere_is_not_lost() -> None:
    ledger = Ledger({"all": "*", "payments": "payment.completed"})
    ledger.committed("user.created", signed_up(1), at=10.0)
    ledger.committed("payment.completed", {"transaction_id": 5}, at=11.0)
    assert ledger.lost == 5  # two on the stream, two for all, one for payments
    ledger.streamed(1, "user.created", signed_up(1), at=10.5)
    ledger.streamed(2, "payment.completed", {"transaction_id": 5}, at=11.5)
    ledger.verified("all", "a", "user.created", signed_up(1), at=11.0)
    ledger.verified("all", "b", "payment.completed", {"transaction_id": 5}, at=12.0)
    ledger.verified("payments", "c", "payment.completed", {"transaction_id": 5}, at=12.0)
    assert ledger.summary() == {
        "events_committed": 2,
        "ws_received": 2,
        "deliveries_verified": 3,
        "lost": 0,
        "duplicates": 0,
    }
    assert ledger.unexpected == 0
    assert ledger.discrepancies() == []


def test_event_missing_anywhere_is_lost() -> None:
    ledger = Ledger({"tickets": "ticket.*"})
    ledger.committed("ticket.created", {"ticket_id": 1}, at=1.0)
    ledger.committed("user.created", signed_up(1), at=2.0)
    ledger.streamed(1, "ticket.created", {"ticket_id": 1}, at=1.5)
    assert ledger.lost == 2
    assert ledger.discrepancies() == [
        "the stream: user.created 1 never arrived",
        "tickets: ticket.created 1 never arrived",
    ]


def test_repeated_id_is_a_duplicate() -> None:
    ledger = Ledger({"all": "*"})
    ledger.committed("user.created", signed_up(1), at=1.0)
    for _ in range(3):
        ledger.streamed(1, "user.created", signed_up(1), at=2.0)
        ledger.verified("all", "msg_1", "user.created", signed_up(1), at=2.0)
    assert ledger.duplicates == 4
    assert ledger.lost == 0
    assert ledger.unexpected == 0
    assert ledger.summary()["ws_received"] == 1
    assert ledger.deliveries_verified == 1


def test_same_event_under_another_id_is_unexpected() -> None:
    ledger = Ledger({})
    ledger.committed("user.created", signed_up(1), at=1.0)
    ledger.streamed(1, "user.created", signed_up(1), at=2.0)
    ledger.streamed(2, "user.created", signed_up(1), at=2.0)
    assert (ledger.duplicates, ledger.unexpected) == (0, 1)
    assert ledger.discrepancies() == ["the stream: user.created 1 was unexpected"]


def test_arrival_before_its_commit_is_expected() -> None:
    ledger = Ledger({})
    assert ledger.streamed(1, "user.created", signed_up(1), at=2.0) is None
    assert ledger.unexpected == 1
    ledger.committed("user.created", signed_up(1), at=2.1)
    assert (ledger.unexpected, ledger.lost) == (0, 0)
    assert list(ledger.stream.latencies) == [0.0]


def test_recurring_change_is_counted_each_time() -> None:
    ledger = Ledger({})
    for at in (1.0, 2.0):
        ledger.committed("ticket.status_changed", moved("open", "closed"), at)
        ledger.committed("ticket.status_changed", moved("closed", "open"), at)
    for event_id, (old, new) in enumerate([("open", "closed"), ("closed", "open")] * 2):
        assert ledger.lost == 4 - event_id
        ledger.streamed(event_id, "ticket.status_changed", moved(old, new), at=3.0)
    assert (ledger.lost, ledger.unexpected) == (0, 0)


def test_delivery_to_the_wrong_webhook_is_lost_and_unexpected() -> None:
    ledger = Ledger({"users": "user.created", "payments": "payment.completed"})
    ledger.committed("user.created", signed_up(1), at=1.0)
    ledger.streamed(1, "user.created", signed_up(1), at=1.0)
    ledger.verified("payments", "a", "user.created", signed_up(1), at=1.0)
    assert (ledger.lost, ledger.unexpected) == (1, 1)


def test_unknown_type_is_identified_by_its_payload() -> None:
    assert identify("webhook.disabled", {"b": 1, "a": 2}) == identify(
        "webhook.disabled", {"a": 2, "b": 1}
    )
    assert identify("webhook.disabled", {"a": 1}) != identify("webhook.disabled", {"a": 2})


def test_latency_is_from_commit_to_arrival() -> None:
    ledger = Ledger({"all": "*"})
    ledger.committed("user.created", signed_up(1), at=1.0)
    assert ledger.streamed(1, "user.created", signed_up(1), at=1.25) == 0.25
    assert ledger.verified("all", "a", "user.created", signed_up(1), at=1.5) == 0.5


def test_overdue_counts_old_missing_events() -> None:
    ledger = Ledger({})
    for number in range(5):
        ledger.committed("user.created", signed_up(number), at=float(number))
    ledger.streamed(9, "user.created", signed_up(0), at=5.0)
    assert ledger.overdue(before=3.0) == 2
    assert ledger.overdue(before=0.0) == 0


def test_percentiles_of_few_values() -> None:
    assert percentile(deque(), 0.5) is None
    assert percentile(deque([3.0]), 0.95) == 3.0
    assert percentile(deque([4.0, 1.0, 3.0, 2.0]), 0.5) == 3.0
