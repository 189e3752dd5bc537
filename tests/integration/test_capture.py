"""The shop bot's six events: their exact payloads, once each, as of the commit."""

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
    """Open a ticket as the bot does; return its id and its first message's."""
    with shop.transaction():
        ticket = shop.ticket()
        return ticket, shop.message(ticket, **message)


def test_new_user_has_the_contracts_seven_fields(shop: Shop) -> None:
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


@pytest.mark.parametrize(
    ("auth_type", "email"),
    [("email", "a@example.com"), ("google", "b@example.com"), ("yandex", None), ("vk", '"a,\\"@b')],
)
def test_user_signed_up_otherwise_has_email_and_auth_type(
    shop: Shop, auth_type: str, email: str | None
) -> None:
    user = shop.user(auth_type=auth_type, email=email, password_hash="never to be captured")
    assert shop.payloads("user.created") == [
        {
            "user_id": user,
            "telegram_id": None,
            "username": None,
            "first_name": None,
            "last_name": None,
            "referral_code": None,
            "referred_by_id": None,
            "email": email,
            "auth_type": auth_type,
        }
    ]


@pytest.mark.parametrize(
    ("column", "columns", "more"),
    [
        ("auth_type", {}, {}),
        ("email", {"auth_type": "telegram"}, {}),
        ("email", {"auth_type": "google"}, {"email": None, "auth_type": "google"}),
    ],
)
def test_releases_without_these_columns_are_captured(
    shop: Shop, column: str, columns: dict[str, object], more: dict[str, object]
) -> None:
    with shop.transaction():
        shop.execute(f"alter table public.users drop column {column}")
        names = ", ".join(["username", *columns])
        values = ", ".join(["%s"] * (1 + len(columns)))
        shop.execute(
            f"insert into public.users ({names}) values ({values})", "i", *columns.values()
        )
        [payload] = shop.payloads("user.created")
        raise psycopg.Rollback
    assert payload["username"] == "i"
    assert len(payload) == 7 + len(more)
    assert more.items() <= payload.items()


def test_updated_or_deleted_user_is_no_event(shop: Shop) -> None:
    shop.execute("update public.users set last_activity = now(), balance_kopeks = 5")
    shop.execute("delete from public.users")
    assert shop.events() == []


def test_users_of_one_statement_keep_their_order(shop: Shop) -> None:
    shop.execute(
        "insert into public.users (auth_type, telegram_id)"
        " select 'telegram', generate_series(1, 500)"
    )
    announced = [payload["telegram_id"] for payload in shop.payloads("user.created")]
    assert announced == list(range(1, 501))


def test_transaction_has_the_contracts_nine_fields(shop: Shop) -> None:
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
def test_transaction_is_announced_completed_or_not(shop: Shop, is_completed: bool | None) -> None:
    shop.payment(is_completed=is_completed)
    [payload] = shop.payloads("transaction.created")
    assert payload["is_completed"] is is_completed


def test_completed_deposit_is_announced_twice_in_order(shop: Shop) -> None:
    shop.payment(payment_method="card", external_id="ext-2", description="Top-up")
    (first, created), (second, completed) = shop.events()
    assert (first, second) == ("transaction.created", "payment.completed")
    assert completed == created


def test_deposit_is_announced_once_when_it_completes(shop: Shop) -> None:
    transaction = shop.payment(is_completed=False)
    assert [kind for kind, _ in shop.events()] == ["transaction.created"]
    shop.execute("update public.transactions set is_completed = true, completed_at = now()")
    [payload] = shop.payloads("payment.completed")
    assert (payload["transaction_id"], payload["is_completed"]) == (transaction, True)
    shop.execute("update public.transactions set receipt_uuid = 'r', receipt_created_at = now()")
    shop.execute("update public.transactions set is_completed = true")
    assert shop.events() == []


def test_deposit_can_complete_from_null(shop: Shop) -> None:
    shop.payment(is_completed=None)
    shop.execute("update public.transactions set description = 'still waiting'")
    assert shop.payloads("payment.completed") == []
    shop.execute("update public.transactions set is_completed = true")
    assert len(shop.payloads("payment.completed")) == 1


def test_deposit_can_complete_in_its_own_transaction(
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


def test_deposit_can_complete_again(shop: Shop) -> None:
    shop.payment()
    shop.execute("update public.transactions set is_completed = false")
    shop.execute("update public.transactions set is_completed = true")
    assert len(shop.payloads("payment.completed")) == 2


@pytest.mark.parametrize("has_media", [True, False, None])
def test_ticket_comes_with_its_first_message_as_one_event(
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


def test_ticket_has_its_status_at_commit(shop: Shop) -> None:
    with shop.transaction():
        ticket = shop.ticket()
        shop.set_status(ticket, "pending")
        shop.message(ticket, has_media=True)
        shop.set_status(ticket, "answered")
    created = dict(shop.events())["ticket.created"]
    assert (created["status"], created["has_media"]) == ("answered", True)


def test_tickets_of_one_transaction_keep_their_messages(shop: Shop) -> None:
    with shop.transaction():
        one, two, three = shop.ticket(), shop.ticket(), shop.ticket()
        shop.message(two, has_media=True)
        shop.message(one, has_media=False)
        later = [shop.message(two, has_media=False), shop.message(one, has_media=True)]
    events = shop.events()
    media = {p["ticket_id"]: p["has_media"] for kind, p in events if kind == "ticket.created"}
    assert media == {one: False, two: True, three: False}
    added = [p["message_id"] for kind, p in events if kind == "ticket.message_added"]
    assert added == later


def test_first_of_two_messages_in_a_statement_opens_the_ticket(shop: Shop) -> None:
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


def test_status_change_has_both_statuses(shop: Shop) -> None:
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


def test_reopened_ticket_has_no_closing_time(shop: Shop) -> None:
    ticket = shop.ticket(status="closed")
    shop.events()
    shop.set_status(ticket, "open")
    [payload] = shop.payloads("ticket.status_changed")
    assert payload["closed_at"] is None


def test_update_without_a_new_status_is_no_event(shop: Shop) -> None:
    opened(shop)
    shop.events()
    shop.execute("update public.tickets set status = status, updated_at = now(), title = 'x'")
    shop.execute("update public.tickets set last_sla_reminder_at = now()")
    assert shop.events() == []


@pytest.mark.parametrize(
    ("timezone", "datestyle"),
    [("UTC", "German"), ("Asia/Tokyo", "SQL, MDY"), ("America/St_Johns", "Postgres")],
)
def test_timestamps_ignore_session_settings(shop: Shop, timezone: str, datestyle: str) -> None:
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


def test_later_message_has_the_contracts_seven_fields(shop: Shop) -> None:
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


def test_message_in_a_later_transaction_is_announced(shop: Shop) -> None:
    ticket = shop.ticket()
    message = shop.message(ticket)
    events = shop.events()
    assert [kind for kind, _ in events] == ["ticket.created", "ticket.message_added"]
    assert events[1][1]["message_id"] == message


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
def test_message_has_the_tickets_status_at_commit(
    shop: Shop, flush: Callable[[Shop, int], None]
) -> None:
    ticket, _ = opened(shop)
    shop.events()
    with shop.transaction():
        flush(shop, ticket)
    [payload] = [payload for kind, payload in shop.events() if kind == "ticket.message_added"]
    assert payload["status"] == "answered"


def test_edited_or_deleted_message_is_no_event(shop: Shop) -> None:
    ticket, _ = opened(shop)
    shop.message(ticket)
    shop.events()
    shop.execute("update public.ticket_messages set message_text = 'edited'")
    shop.execute("delete from public.ticket_messages")
    assert shop.events() == []


@pytest.mark.parametrize("character", ["a", "я", "😀", "𝒳", "漢"])
def test_message_is_cut_at_200_characters_not_bytes(shop: Shop, character: str) -> None:
    ticket, _ = opened(shop)
    shop.message(ticket, message_text=character * 4096)
    shop.message(ticket, message_text=character * 200)
    texts = [payload["message_text"] for payload in shop.payloads("ticket.message_added")]
    assert texts == [character * 200] * 2


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_user_text_arrives_unchanged(shop: Shop, text: str) -> None:
    shop.user(username=text, first_name=text, last_name=text)
    shop.payment(description=text, external_id=text, payment_method=text)
    ticket = shop.ticket(title=text)
    shop.message(ticket, message_text=text)
    arrived = {(kind, name): payload[name] for kind, payload in shop.events() for name in payload}
    texts = {arrived[kind, name] for kind, names in TEXTS.items() for name in names}
    assert texts == {text}
    assert not [name for _, name in arrived if name == "_capture_error"]


def test_description_of_4000_characters_is_not_cut(shop: Shop) -> None:
    text = "я😀'\"\\" * 800 + "."
    shop.payment(description=text)
    assert shop.payloads("payment.completed")[0]["description"] == text
