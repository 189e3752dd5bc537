"""What a commit announces: nothing that was rolled back, and at most one notification."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.conftest import Shop
from tests.waiting import notifications

Listener = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def listener(shop: Shop) -> Iterator[Listener]:
    """Return a connection that listens for the doorbell."""
    with psycopg.connect(shop.url, autocommit=True) as connection:
        connection.execute("listen bridge_outbox")
        yield connection


def received(listener: Listener, count: int = 1) -> list[str]:
    """Wait for this many notifications; return their payloads."""
    return [notify.payload for notify in notifications(listener, count)]


def test_ticket_opened_within_savepoints_is_announced_once(shop: Shop) -> None:
    with shop.transaction():
        with shop.transaction():
            ticket = shop.ticket()
            with shop.transaction():
                shop.message(ticket, has_media=True)
        with shop.transaction():
            second = shop.message(ticket)
    (first, created), (last, added) = shop.events()
    assert (first, created["has_media"]) == ("ticket.created", True)
    assert (last, added["message_id"]) == ("ticket.message_added", second)


def test_message_after_a_rolled_back_one_opens_the_ticket(shop: Shop) -> None:
    with shop.transaction():
        ticket = shop.ticket()
        with shop.transaction():
            shop.message(ticket, has_media=True)
            raise psycopg.Rollback
        shop.message(ticket, has_media=False)
    [(kind, payload)] = shop.events()
    assert (kind, payload["has_media"]) == ("ticket.created", False)


def test_rolled_back_message_is_not_announced(shop: Shop) -> None:
    with shop.transaction():
        ticket = shop.ticket()
        shop.message(ticket)
        with shop.transaction():
            shop.message(ticket)
            raise psycopg.Rollback
    assert [kind for kind, _ in shop.events()] == ["ticket.created"]


def test_rolled_back_status_is_in_no_event(shop: Shop) -> None:
    ticket = shop.ticket()
    shop.events()
    with shop.transaction():
        shop.message(ticket)
        with shop.transaction():
            shop.set_status(ticket, "closed")
            raise psycopg.Rollback
    [(kind, payload)] = shop.events()
    assert (kind, payload["status"]) == ("ticket.message_added", "open")


def test_rolled_back_ticket_is_not_announced(shop: Shop) -> None:
    with shop.transaction():
        with shop.transaction():
            shop.message(shop.ticket())
            raise psycopg.Rollback
        kept = shop.ticket()
        shop.message(kept)
    assert [(kind, payload["ticket_id"]) for kind, payload in shop.events()] == [
        ("ticket.created", kept)
    ]


def test_rolled_back_transaction_announces_nothing(shop: Shop) -> None:
    with shop.transaction():
        shop.user()
        shop.payment()
        ticket = shop.ticket()
        shop.message(ticket)
        shop.message(ticket)
        shop.set_status(ticket, "closed")
        raise psycopg.Rollback
    assert shop.events() == []


def test_immediate_constraints_make_events_at_once(
    shop: Shop,
) -> None:
    with shop.transaction():
        shop.execute("set constraints all immediate")
        shop.message(shop.ticket())
    assert [kind for kind, _ in shop.events()] == ["ticket.created"]


def test_commit_rings_once_for_any_number_of_rows(shop: Shop, listener: Listener) -> None:
    shop.execute("select setval('bridge.doorbell', 0)")
    with shop.transaction():
        for _ in range(5):
            shop.user()
        shop.message(shop.ticket())
    shop.execute("notify bridge_outbox, 'after'")
    assert received(listener, 2) == ["", "after"]


def test_rollback_and_uncaptured_update_do_not_ring(shop: Shop, listener: Listener) -> None:
    shop.execute("select setval('bridge.doorbell', 0)")
    with shop.transaction():
        shop.user()
        raise psycopg.Rollback
    shop.execute("update public.users set last_activity = now()")
    shop.execute("notify bridge_outbox, 'after'")
    assert received(listener) == ["after"]


def test_quiet_doorbell_is_not_rung(shop: Shop, listener: Listener) -> None:
    shop.execute("select setval('bridge.doorbell', 1)")
    shop.user()
    with shop.transaction():
        shop.message(shop.ticket())
    shop.execute("select bridge.ring()")
    shop.execute("notify bridge_outbox, 'after'")
    assert received(listener) == ["after"]
    assert [kind for kind, _ in shop.events()] == ["user.created", "ticket.created"]


def test_doorbell_switches_within_open_transactions(shop: Shop, listener: Listener) -> None:
    shop.execute("select setval('bridge.doorbell', 1)")
    with shop.transaction():
        shop.user()
        # A sequence is not transactional: open transactions see the new value at once.
        listener.execute("select setval('bridge.doorbell', 0)")
        shop.user()
    assert received(listener) == [""]


@pytest.mark.parametrize(("flag", "error"), [(0, "LISTEN, UNLISTEN, or NOTIFY"), (1, None)])
def test_transaction_can_be_prepared_only_if_quiet(
    shop: Shop, flag: int, error: str | None
) -> None:
    shop.execute("select setval('bridge.doorbell', %s)", flag)
    with psycopg.connect(shop.url, autocommit=True) as application:
        application.execute("begin")
        application.execute("insert into public.users (auth_type) values ('telegram')")
        if error is not None:
            with pytest.raises(psycopg.errors.FeatureNotSupported, match=error):
                application.execute("prepare transaction 'two-phase'")
            return
        application.execute("prepare transaction 'two-phase'")
        assert shop.events() == []
        application.execute("commit prepared 'two-phase'")
    assert [kind for kind, _ in shop.events()] == ["user.created"]


def test_row_is_visible_when_the_notification_arrives(shop: Shop, listener: Listener) -> None:
    shop.execute("select setval('bridge.doorbell', 0)")
    shop.payment(is_completed=False)
    assert received(listener) == [""]
    rows = listener.execute("select event_type from bridge.outbox").fetchall()
    assert rows == [("transaction.created",)]


def test_event_has_the_time_of_its_statement(shop: Shop) -> None:
    before = shop.execute("select clock_timestamp()").fetchone()
    shop.payment()
    captured = shop.execute("select captured_at from bridge.outbox order by id limit 1").fetchone()
    after = shop.execute("select clock_timestamp()").fetchone()
    assert before is not None
    assert captured is not None
    assert after is not None
    assert before < captured < after
