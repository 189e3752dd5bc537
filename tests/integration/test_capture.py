"""The six events of the shop bot: exactly what is announced, once, and as it is at commit."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.integration.conftest import Shop

HOSTILE = {
    "quotes": """it's "quoted" `and` \\'escaped\\' \\""",
    "sql": "Robert'); drop table public.users; --",
    "dollar quotes": "$capture$ $$ $1 $_capture$",
    "placeholders": "%s %(name)s {name} {{ name }} :name ?",
    "json": '{"type": "user.created", "payload": null}\\u0000',
    "newlines": "one\r\ntwo\n\tthree\x0bfour\u2028five",
    "controls": "\x01\x02\x1b[31m\x7f\x85",
    "right to left": "\u202eمرحبا שלום\u202c",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈 😀",
    "combining": "Z̸̢̛a̴l̵g̶o̷",
    "spaces": "  leading and trailing \u00a0\ufeff",
    "empty": "",
}
TEXTS = {
    "user.created": ["username", "first_name", "last_name"],
    "transaction.created": ["description", "external_id", "payment_method"],
    "payment.completed": ["description", "external_id", "payment_method"],
    "ticket.created": ["title"],
    "ticket.message_added": ["message_text"],
}


def opened(shop: Shop, **message: object) -> tuple[int, int]:
    """Open a ticket as the bot does; return the ids of the ticket and its first message."""
    with shop.transaction():
        ticket = shop.ticket()
        return ticket, shop.message(ticket, **message)


# --- user.created


def test_a_new_user_is_announced_with_the_contracts_seven_fields(shop: Shop) -> None:
    user = shop.user(
        telegram_id=456789,
        username="testuser",
        first_name="Test",
        last_name="User",
        referral_code="refABC123",
        referred_by_id=1,
        password_hash="never to be captured",
        email="never@example.com",
    )
    assert shop.events() == [
        (
            "user.created",
            {
                "user_id": user,
                "telegram_id": 456789,
                "username": "testuser",
                "first_name": "Test",
                "last_name": "User",
                "referral_code": "refABC123",
                "referred_by_id": 1,
            },
        )
    ]


def test_a_user_who_signed_up_by_email_is_announced_with_nulls(shop: Shop) -> None:
    user = shop.user(auth_type="email", email="a@example.com")
    [payload] = shop.payloads("user.created")
    assert payload.pop("user_id") == user
    assert set(payload.values()) == {None}
    assert len(payload) == 6


def test_a_user_whose_activity_changes_is_not_announced(shop: Shop) -> None:
    shop.execute("update public.users set last_activity = now(), balance_kopeks = 5")
    shop.execute("delete from public.users")
    assert shop.events() == []


def test_every_user_of_one_statement_is_announced_in_its_order(shop: Shop) -> None:
    shop.execute(
        "insert into public.users (auth_type, telegram_id)"
        " select 'telegram', generate_series(1, 500)"
    )
    announced = [payload["telegram_id"] for payload in shop.payloads("user.created")]
    assert announced == list(range(1, 501))


# --- transaction.created


def test_a_transaction_is_announced_with_the_contracts_nine_fields(shop: Shop) -> None:
    transaction = shop.payment(
        type="subscription_payment",
        amount_kopeks=-10050,
        description="30 days",
        payment_method="balance",
        external_id="ext-1",
    )
    assert shop.events() == [
        (
            "transaction.created",
            {
                "transaction_id": transaction,
                "user_id": 1,
                "type": "subscription_payment",
                "amount_kopeks": 10050,
                "amount_rubles": 100.5,
                "payment_method": "balance",
                "external_id": "ext-1",
                "is_completed": True,
                "description": "30 days",
            },
        )
    ]


@pytest.mark.parametrize(
    ("stored", "kopeks", "rubles"),
    [
        (10050, 10050, "100.5"),
        (-10050, 10050, "100.5"),
        (1, 1, "0.01"),
        (-1, 1, "0.01"),
        (10, 10, "0.1"),
        (100, 100, "1"),
        (0, 0, "0"),
        (1000000, 1000000, "10000"),
        (-123456789, 123456789, "1234567.89"),
        (2**31 - 1, 2**31 - 1, "21474836.47"),
        (-(2**31), 2**31, "21474836.48"),
    ],
)
def test_amounts_are_absolute_and_exact(shop: Shop, stored: int, kopeks: int, rubles: str) -> None:
    shop.payment(amount_kopeks=stored)
    amounts = shop.execute(
        "select event_type, payload ->> 'amount_kopeks', payload ->> 'amount_rubles'"
        " from bridge.outbox order by id"
    ).fetchall()
    assert amounts == [
        ("transaction.created", str(kopeks), rubles),
        ("payment.completed", str(kopeks), rubles),
    ]


@pytest.mark.parametrize("is_completed", [True, False, None])
def test_any_transaction_is_announced_completed_or_not(
    shop: Shop, is_completed: bool | None
) -> None:
    shop.payment(is_completed=is_completed)
    [payload] = shop.payloads("transaction.created")
    assert payload["is_completed"] is is_completed


# --- payment.completed


def test_a_deposit_inserted_completed_is_announced_as_both_in_this_order(shop: Shop) -> None:
    shop.payment(payment_method="card", external_id="ext-2", description="Top-up")
    (first, created), (second, completed) = shop.events()
    assert (first, second) == ("transaction.created", "payment.completed")
    assert completed == created


def test_a_deposit_that_becomes_completed_is_announced_then_and_once(shop: Shop) -> None:
    transaction = shop.payment(is_completed=False)
    assert [kind for kind, _ in shop.events()] == ["transaction.created"]
    shop.execute("update public.transactions set is_completed = true, completed_at = now()")
    [payload] = shop.payloads("payment.completed")
    assert (payload["transaction_id"], payload["is_completed"]) == (transaction, True)
    shop.execute("update public.transactions set receipt_uuid = 'r', receipt_created_at = now()")
    shop.execute("update public.transactions set is_completed = true")
    assert shop.events() == []


def test_a_deposit_that_was_never_said_to_be_completed_can_become_so(shop: Shop) -> None:
    shop.payment(is_completed=None)
    shop.execute("update public.transactions set description = 'still waiting'")
    assert shop.payloads("payment.completed") == []
    shop.execute("update public.transactions set is_completed = true")
    assert len(shop.payloads("payment.completed")) == 1


def test_a_deposit_completed_in_the_transaction_that_inserts_it_is_completed_once(
    shop: Shop,
) -> None:
    with shop.transaction():
        shop.payment(is_completed=False)
        shop.execute("update public.transactions set is_completed = true")
        shop.execute("update public.users set balance_kopeks = 10050")
    kinds = [(kind, payload["is_completed"]) for kind, payload in shop.events()]
    assert kinds == [("transaction.created", False), ("payment.completed", True)]


@pytest.mark.parametrize(
    "kind",
    [
        "withdrawal",
        "subscription_payment",
        "refund",
        "failed_refund",
        "referral_reward",
        "poll_reward",
        "gift_payment",
    ],
)
def test_only_deposits_are_payments(shop: Shop, kind: str) -> None:
    shop.payment(type=kind)
    shop.payment(type=kind, is_completed=False)
    shop.execute("update public.transactions set is_completed = true")
    assert [kind for kind, _ in shop.events()] == ["transaction.created"] * 2


def test_a_deposit_that_is_withdrawn_and_completed_again_is_completed_again(shop: Shop) -> None:
    shop.payment()
    shop.execute("update public.transactions set is_completed = false")
    shop.execute("update public.transactions set is_completed = true")
    assert len(shop.payloads("payment.completed")) == 2


# --- ticket.created


@pytest.mark.parametrize("has_media", [True, False, None])
def test_a_ticket_is_announced_with_the_media_of_its_first_message(
    shop: Shop, has_media: bool | None
) -> None:
    ticket, _ = opened(shop, has_media=has_media)
    assert shop.events() == [
        (
            "ticket.created",
            {
                "ticket_id": ticket,
                "user_id": 1,
                "title": "No connection",
                "status": "open",
                "priority": "normal",
                "has_media": bool(has_media),
            },
        )
    ]


def test_a_ticket_without_a_message_has_no_media(shop: Shop) -> None:
    ticket = shop.ticket()
    [(kind, payload)] = shop.events()
    assert (kind, payload["ticket_id"], payload["has_media"]) == ("ticket.created", ticket, False)


def test_a_ticket_is_announced_with_the_status_it_has_at_commit(shop: Shop) -> None:
    with shop.transaction():
        ticket = shop.ticket()
        shop.set_status(ticket, "pending")
        shop.message(ticket, has_media=True)
        shop.set_status(ticket, "answered")
    created = dict(shop.events())["ticket.created"]
    assert (created["status"], created["has_media"]) == ("answered", True)


def test_the_media_of_a_second_message_is_not_the_first_messages(shop: Shop) -> None:
    with shop.transaction():
        ticket = shop.ticket()
        shop.message(ticket, has_media=False)
        shop.message(ticket, has_media=True)
    assert dict(shop.events())["ticket.created"]["has_media"] is False


def test_two_tickets_opened_in_one_transaction_keep_their_own_messages(shop: Shop) -> None:
    with shop.transaction():
        one, two, three = shop.ticket(), shop.ticket(), shop.ticket()
        shop.message(two, has_media=True)
        shop.message(one, has_media=False)
        later = shop.message(two, has_media=False)
    events = shop.events()
    media = {p["ticket_id"]: p["has_media"] for kind, p in events if kind == "ticket.created"}
    assert media == {one: False, two: True, three: False}
    added = [p["message_id"] for kind, p in events if kind == "ticket.message_added"]
    assert added == [later]


def test_a_ticket_and_message_of_one_statement_each_are_told_apart(shop: Shop) -> None:
    with shop.transaction():
        ticket = shop.ticket()
        shop.execute(
            "insert into public.ticket_messages"
            " (ticket_id, user_id, message_text, is_from_admin, has_media)"
            " values (%s, 1, 'first', false, true), (%s, 1, 'second', true, false)",
            ticket,
            ticket,
        )
    (_, created), (_, added) = sorted(shop.events())
    assert created["has_media"] is True
    assert added["message_text"] == "second"


# --- ticket.status_changed


def test_a_status_change_is_announced_with_both_statuses(shop: Shop) -> None:
    ticket, _ = opened(shop)
    shop.events()
    shop.execute(
        "update public.tickets set status = 'closed', updated_at = now(),"
        " closed_at = '2024-01-15 10:30:00.123456+00'"
    )
    assert shop.events() == [
        (
            "ticket.status_changed",
            {
                "ticket_id": ticket,
                "user_id": 1,
                "old_status": "open",
                "new_status": "closed",
                "closed_at": "2024-01-15T10:30:00.123456+00:00",
            },
        )
    ]


def test_a_ticket_reopened_is_announced_without_a_time_of_closing(shop: Shop) -> None:
    ticket = shop.ticket(status="closed")
    shop.events()
    shop.set_status(ticket, "open")
    [payload] = shop.payloads("ticket.status_changed")
    assert payload["closed_at"] is None


def test_an_update_that_leaves_the_status_is_not_a_status_change(shop: Shop) -> None:
    opened(shop)
    shop.events()
    shop.execute("update public.tickets set status = status, updated_at = now(), title = 'x'")
    shop.execute("update public.tickets set last_sla_reminder_at = now()")
    assert shop.events() == []


@pytest.mark.parametrize("timezone", ["UTC", "Asia/Tokyo", "America/St_Johns", "Europe/Moscow"])
@pytest.mark.parametrize("datestyle", ["ISO, DMY", "German", "SQL, MDY", "Postgres"])
def test_timestamps_are_the_same_whatever_the_sessions_settings(
    shop: Shop, timezone: str, datestyle: str
) -> None:
    ticket = shop.ticket()
    shop.execute(f"set timezone = '{timezone}'")
    shop.execute(f"set datestyle = '{datestyle}'")
    shop.execute(
        "update public.tickets set status = 'closed',"
        " closed_at = to_timestamp(1705314600.5) where id = %s",
        ticket,
    )
    [payload] = shop.payloads("ticket.status_changed")
    assert payload["closed_at"] == "2024-01-15T10:30:00.5+00:00"
    assert shop.execute("show timezone").fetchone() == (timezone,)


# --- ticket.message_added


def test_a_later_message_is_announced_with_the_contracts_seven_fields(shop: Shop) -> None:
    ticket, _ = opened(shop)
    shop.events()
    message = shop.message(ticket, message_text="Try again", is_from_admin=True, has_media=True)
    assert shop.events() == [
        (
            "ticket.message_added",
            {
                "ticket_id": ticket,
                "message_id": message,
                "user_id": 1,
                "is_from_admin": True,
                "message_text": "Try again",
                "has_media": True,
                "status": "open",
            },
        )
    ]


def test_the_message_that_opens_a_ticket_is_announced_with_it_and_not_again(shop: Shop) -> None:
    opened(shop)
    assert [kind for kind, _ in shop.events()] == ["ticket.created"]


def test_a_first_message_in_a_later_transaction_did_not_open_the_ticket(shop: Shop) -> None:
    ticket = shop.ticket()
    message = shop.message(ticket)
    events = shop.events()
    assert [kind for kind, _ in events] == ["ticket.created", "ticket.message_added"]
    assert events[1][1]["message_id"] == message


def test_a_second_message_in_the_opening_transaction_is_announced(shop: Shop) -> None:
    with shop.transaction():
        ticket = shop.ticket()
        shop.message(ticket)
        second = shop.message(ticket, message_text="And another thing")
    assert [payload["message_id"] for payload in shop.payloads("ticket.message_added")] == [second]


def _message_first(shop: Shop, ticket: int) -> None:
    shop.message(ticket)
    shop.set_status(ticket, "answered")


def _ticket_first(shop: Shop, ticket: int) -> None:
    shop.set_status(ticket, "answered")
    shop.message(ticket)


def _twice(shop: Shop, ticket: int) -> None:
    shop.set_status(ticket, "pending")
    shop.message(ticket)
    shop.set_status(ticket, "answered")


@pytest.mark.parametrize("flush", [_message_first, _ticket_first, _twice])
def test_a_message_carries_the_status_of_the_commit_in_any_order_of_statements(
    shop: Shop, flush: Callable[[Shop, int], None]
) -> None:
    ticket, _ = opened(shop)
    shop.events()
    with shop.transaction():
        flush(shop, ticket)
    [payload] = [payload for kind, payload in shop.events() if kind == "ticket.message_added"]
    assert payload["status"] == "answered"


def test_a_message_to_a_closed_ticket_says_that_it_is_closed(shop: Shop) -> None:
    ticket = shop.ticket(status="closed")
    shop.events()
    shop.message(ticket)
    [(kind, payload)] = shop.events()
    assert (kind, payload["status"]) == ("ticket.message_added", "closed")


def test_a_message_is_not_announced_when_it_is_edited_or_deleted(shop: Shop) -> None:
    ticket, _ = opened(shop)
    shop.message(ticket)
    shop.events()
    shop.execute("update public.ticket_messages set message_text = 'edited'")
    shop.execute("delete from public.ticket_messages")
    assert shop.events() == []


@pytest.mark.parametrize("character", ["a", "я", "😀", "𝒳", "漢"])
def test_a_long_message_is_cut_at_two_hundred_characters_not_bytes(
    shop: Shop, character: str
) -> None:
    ticket, _ = opened(shop)
    shop.message(ticket, message_text=character * 4096)
    shop.message(ticket, message_text=character * 200)
    texts = [payload["message_text"] for payload in shop.payloads("ticket.message_added")]
    assert texts == [character * 200] * 2


# --- savepoints


def test_a_ticket_opened_within_savepoints_is_announced_once(shop: Shop) -> None:
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


def test_when_the_first_message_is_rolled_back_the_next_one_opens_the_ticket(shop: Shop) -> None:
    with shop.transaction():
        ticket = shop.ticket()
        with shop.transaction():
            shop.message(ticket, has_media=True)
            raise psycopg.Rollback
        shop.message(ticket, has_media=False)
    [(kind, payload)] = shop.events()
    assert (kind, payload["has_media"]) == ("ticket.created", False)


def test_a_later_message_rolled_back_to_a_savepoint_is_not_announced(shop: Shop) -> None:
    with shop.transaction():
        ticket = shop.ticket()
        shop.message(ticket)
        with shop.transaction():
            shop.message(ticket)
            raise psycopg.Rollback
    assert [kind for kind, _ in shop.events()] == ["ticket.created"]


def test_a_status_change_rolled_back_to_a_savepoint_is_not_in_any_event(shop: Shop) -> None:
    ticket, _ = opened(shop)
    shop.events()
    with shop.transaction():
        shop.message(ticket)
        with shop.transaction():
            shop.set_status(ticket, "closed")
            raise psycopg.Rollback
    [(kind, payload)] = shop.events()
    assert (kind, payload["status"]) == ("ticket.message_added", "open")


def test_a_ticket_rolled_back_to_a_savepoint_is_not_announced(shop: Shop) -> None:
    with shop.transaction():
        with shop.transaction():
            shop.message(shop.ticket())
            raise psycopg.Rollback
        kept, _ = opened(shop)
    assert [(kind, payload["ticket_id"]) for kind, payload in shop.events()] == [
        ("ticket.created", kept)
    ]


def test_a_transaction_rolled_back_announces_nothing(shop: Shop) -> None:
    with shop.transaction():
        shop.user()
        shop.payment()
        ticket = shop.ticket()
        shop.message(ticket)
        shop.message(ticket)
        shop.set_status(ticket, "closed")
        raise psycopg.Rollback
    assert shop.events() == []


def test_an_application_that_wants_its_constraints_at_once_gets_its_events_at_once(
    shop: Shop,
) -> None:
    with shop.transaction():
        shop.execute("set constraints all immediate")
        shop.message(shop.ticket())
    assert [kind for kind, _ in shop.events()] == ["ticket.created"]


# --- texts


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_whatever_a_user_writes_arrives_as_it_is(shop: Shop, text: str) -> None:
    shop.user(username=text, first_name=text, last_name=text)
    shop.payment(description=text, external_id=text, payment_method=text)
    ticket = shop.ticket(title=text)
    shop.message(ticket, message_text=text)
    arrived = {(kind, name): payload[name] for kind, payload in shop.events() for name in payload}
    texts = {arrived[kind, name] for kind, names in TEXTS.items() for name in names}
    assert texts == {text}
    assert not [name for _, name in arrived if name == "_capture_error"]


def test_a_description_of_four_thousand_characters_is_not_cut(shop: Shop) -> None:
    text = "я😀'\"\\" * 800 + "."
    shop.payment(description=text)
    assert shop.payloads("payment.completed")[0]["description"] == text


# --- the doorbell


def test_a_commit_rings_the_bell_once_however_many_rows_it_wrote(shop: Shop) -> None:
    with psycopg.connect(shop.url, autocommit=True) as listener:
        listener.execute("listen bridge_outbox")
        listener.execute("select setval('bridge.doorbell', 0)")
        with shop.transaction():
            for _ in range(5):
                shop.user()
            opened(shop)
        shop.execute("notify bridge_outbox, 'after'")
        heard = [notify.payload for notify in listener.notifies(timeout=10, stop_after=2)]
    assert heard == ["", "after"]


def test_a_rollback_does_not_ring_the_bell(shop: Shop) -> None:
    with psycopg.connect(shop.url, autocommit=True) as listener:
        listener.execute("listen bridge_outbox")
        listener.execute("select setval('bridge.doorbell', 0)")
        with shop.transaction():
            shop.user()
            raise psycopg.Rollback
        shop.execute("update public.users set last_activity = now()")
        shop.execute("notify bridge_outbox, 'after'")
        heard = [notify.payload for notify in listener.notifies(timeout=10, stop_after=1)]
    assert heard == ["after"]


def test_a_quiet_bell_is_not_rung_and_the_row_is_there(shop: Shop) -> None:
    with psycopg.connect(shop.url, autocommit=True) as listener:
        listener.execute("listen bridge_outbox")
        listener.execute("select setval('bridge.doorbell', 1)")
        shop.user()
        opened(shop)
        shop.execute("select bridge.ring()")
        shop.execute("notify bridge_outbox, 'after'")
        heard = [notify.payload for notify in listener.notifies(timeout=10, stop_after=1)]
    assert heard == ["after"]
    assert [kind for kind, _ in shop.events()] == ["user.created", "ticket.created"]


def test_the_bell_can_become_quiet_within_a_transaction(shop: Shop) -> None:
    with psycopg.connect(shop.url, autocommit=True) as listener:
        listener.execute("select setval('bridge.doorbell', 1)")
        listener.execute("listen bridge_outbox")
        with shop.transaction():
            shop.user()
            # The flag is not transactional: what is set holds at once, for transactions in flight.
            listener.execute("select setval('bridge.doorbell', 0)")
            shop.user()
        heard = [notify.payload for notify in listener.notifies(timeout=10, stop_after=1)]
    assert heard == [""]


@pytest.mark.parametrize(("flag", "refusal"), [(0, "LISTEN, UNLISTEN, or NOTIFY"), (1, None)])
def test_only_a_quiet_bell_leaves_transactions_that_can_be_prepared(
    shop: Shop, flag: int, refusal: str | None
) -> None:
    shop.execute("select setval('bridge.doorbell', %s)", flag)
    with psycopg.connect(shop.url, autocommit=True) as application:
        application.execute("begin")
        application.execute("insert into public.users (auth_type) values ('telegram')")
        if refusal is not None:
            with pytest.raises(psycopg.errors.FeatureNotSupported, match=refusal):
                application.execute("prepare transaction 'two-phase'")
            return
        application.execute("prepare transaction 'two-phase'")
        assert shop.events() == []
        application.execute("commit prepared 'two-phase'")
    assert [kind for kind, _ in shop.events()] == ["user.created"]


def test_who_hears_the_bell_finds_the_row(shop: Shop) -> None:
    with psycopg.connect(shop.url, autocommit=True) as listener:
        listener.execute("listen bridge_outbox")
        listener.execute("select setval('bridge.doorbell', 0)")
        opened(shop)
        [_] = listener.notifies(timeout=10, stop_after=1)
        assert listener.execute("select event_type from bridge.outbox").fetchall() == [
            ("ticket.created",)
        ]


def test_an_event_remembers_when_its_statement_ran(shop: Shop) -> None:
    before = shop.execute("select clock_timestamp()").fetchone()
    shop.payment()
    captured = shop.execute("select captured_at from bridge.outbox order by id limit 1").fetchone()
    after = shop.execute("select clock_timestamp()").fetchone()
    assert before is not None
    assert captured is not None
    assert after is not None
    assert before < captured < after
