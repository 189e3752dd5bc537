"""A simulated Telegram shop bot: it trades on its tables and keeps a list of what it did.

It is the application that must not change: it knows nothing of a bridge and uses nothing of one.
Beside every commit stands what that commit has to announce, worked out from what the bot meant to
do and never from what any trigger wrote.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from types import TracebackType
from typing import Any, Self

import psycopg

from bridge.demo import phrases

# How many of its users, payments and tickets the bot keeps in mind: it may run for days.
_REMEMBERED = 300

_METHODS = ("yookassa", "cryptobot", "telegram_stars", "sbp", None)
_PRIORITIES = ("low", "normal", "normal", "normal", "high", "urgent")
_AMOUNTS_KOPEKS = (1, 99, 10050, 19900, 29900, 50000, 100000, 123456, 2_000_000_000)

_Announced = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Commit:
    """One committed transaction: what it did, what it must announce, when its COMMIT returned."""

    what: str
    announces: _Announced
    committed_at: float  # time.monotonic()


@dataclass(slots=True)
class _Ticket:
    id: int
    user_id: int
    status: str


@dataclass(slots=True)
class _Shop:
    """What the bot knows of its tables, as committed."""

    users: list[int] = field(default_factory=list)
    pending: list[dict[str, Any]] = field(default_factory=list)  # transactions, as inserted
    settled: list[dict[str, Any]] = field(default_factory=list)
    tickets: list[_Ticket] = field(default_factory=list)


class Bot:
    """The bot, on two connections of its own.

    ``step`` makes one transaction after the other. The second connection holds, now and then, a
    sign-up whose COMMIT comes only after those of later transactions, as it happens in every
    application with more than one worker.
    """

    def __init__(self, url: str, *, seed: int = 1) -> None:
        self._rng = Random(seed)
        self._shop = _Shop()
        self._numbers = 0
        self._connection = psycopg.connect(url, application_name="shop bot")
        self._second = psycopg.connect(url, application_name="shop bot")
        self._open_sign_up: tuple[dict[str, Any], int] | None = None
        self._actions: dict[Callable[[], _Announced | None], int] = {
            self._sign_up: 14,
            self._begin_slow_sign_up: 2,
            self._pay: 16,
            self._invoice: 10,
            self._settle_invoice: 9,
            self._debit: 14,
            self._reward_or_refund: 6,
            self._open_ticket: 8,
            self._user_writes: 12,
            self._admin_answers: 10,
            self._change_status: 9,
            self._housekeep: 4,
            self._change_its_mind: 3,
            self._repeated_callback: 2,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close both connections; a sign-up that is still open is rolled back with its own."""
        self._connection.close()
        self._second.close()

    def step(self) -> Commit | None:
        """Make one transaction; return what it committed, None if it was rolled back.

        Raises:
            psycopg.Error: the database refused what it never refuses, or is gone.
        """
        committed = self._end_slow_sign_up()
        if committed is not None:
            return committed
        actions = list(self._actions)
        while True:
            action = self._rng.choices(actions, list(self._actions.values()))[0]
            announces = action()
            if announces is not None:
                break
            # Nothing to do it with yet, or it was rolled back; only the latter is a step.
            if action in (self._change_its_mind, self._repeated_callback):
                self._connection.rollback()
                return None
        self._connection.commit()
        at = time.monotonic()
        return Commit(action.__name__.strip("_").replace("_", " "), announces, at)

    # Users.

    def _sign_up(self) -> _Announced:
        user = self._insert_user(self._connection)
        _remember(self._shop.users, user["user_id"])
        return [("user.created", user)]

    def _begin_slow_sign_up(self) -> _Announced | None:
        """Leave a sign-up uncommitted for some steps; nothing is announced until then."""
        if self._open_sign_up is not None:
            return None
        user = self._insert_user(self._second)
        self._open_sign_up = user, self._rng.randint(1, 15)
        return []

    def _end_slow_sign_up(self) -> Commit | None:
        if self._open_sign_up is None:
            return None
        user, steps_left = self._open_sign_up
        if steps_left > 0:
            self._open_sign_up = user, steps_left - 1
            return None
        self._open_sign_up = None
        self._second.commit()
        at = time.monotonic()
        _remember(self._shop.users, user["user_id"])
        return Commit("slow sign up", [("user.created", user)], at)

    def _insert_user(self, connection: psycopg.Connection[Any]) -> dict[str, Any]:
        rng = self._rng
        by_email = rng.random() < 0.25
        number = self._number()
        user = {
            "telegram_id": None if by_email else 5_000_000_000 + number * 37,
            "username": None if by_email else phrases.username(rng),
            "first_name": None if by_email and rng.random() < 0.5 else phrases.first_name(rng),
            "last_name": phrases.last_name(rng),
            "referral_code": f"ref{number:06X}",
            "referred_by_id": (
                rng.choice(self._shop.users) if self._shop.users and rng.random() < 0.3 else None
            ),
        }
        now = _now()
        user_id = _id(
            connection.execute(
                """insert into users (telegram_id, auth_type, username, first_name, last_name,
                       status, language, balance_kopeks, referred_by_id, referral_code, email,
                       password_hash, created_at, updated_at, last_activity)
                   values (%s, %s, %s, %s, %s, 'active', 'ru', 0, %s, %s, %s, %s, %s, %s, %s)
                   returning id""",
                (
                    user["telegram_id"],
                    "email" if by_email else "telegram",
                    user["username"],
                    user["first_name"],
                    user["last_name"],
                    user["referred_by_id"],
                    user["referral_code"],
                    f"user{number}@example.com" if by_email else None,
                    "$2b$12$not-for-anyone-else" if by_email else None,
                    now,
                    now,
                    now,
                ),
            )
        )
        return {"user_id": user_id, **user}

    # Money.

    def _pay(self) -> _Announced | None:
        """A deposit whose provider answers at once."""
        if not self._shop.users:
            return None
        deposit = self._insert_transaction("deposit", completed=True)
        self._change_balance(deposit["user_id"], deposit["amount_kopeks"])
        _remember(self._shop.settled, deposit)
        return [("transaction.created", deposit), ("payment.completed", deposit)]

    def _invoice(self) -> _Announced | None:
        """A deposit, or now and then a withdrawal, that is completed later, if ever."""
        if not self._shop.users:
            return None
        kind = "withdrawal" if self._rng.random() < 0.2 else "deposit"
        pending = self._insert_transaction(kind, completed=self._rng.choice((False, False, None)))
        _remember(self._shop.pending, pending)
        return [("transaction.created", pending)]

    def _settle_invoice(self) -> _Announced | None:
        if not self._shop.pending:
            return None
        pending = self._shop.pending.pop(self._rng.randrange(len(self._shop.pending)))
        if self._rng.random() < 0.5:
            self._change_balance(pending["user_id"], pending["amount_kopeks"])
        self._connection.execute(
            "update transactions set is_completed = true, completed_at = %s where id = %s",
            (_now(), pending["transaction_id"]),
        )
        completed = {**pending, "is_completed": True}
        _remember(self._shop.settled, completed)
        return [("payment.completed", completed)] if pending["type"] == "deposit" else []

    def _debit(self) -> _Announced | None:
        """A subscription or a gift is paid from the balance: stored negative."""
        if not self._shop.users:
            return None
        kind = self._rng.choice(("subscription_payment", "subscription_payment", "gift_payment"))
        debit = self._insert_transaction(kind, completed=True, sign=-1)
        self._change_balance(debit["user_id"], -debit["amount_kopeks"])
        return [("transaction.created", debit)]

    def _reward_or_refund(self) -> _Announced | None:
        if not self._shop.users:
            return None
        kind = self._rng.choice(("referral_reward", "poll_reward", "refund", "failed_refund"))
        return [("transaction.created", self._insert_transaction(kind, completed=True))]

    def _insert_transaction(
        self, kind: str, *, completed: bool | None, sign: int = 1
    ) -> dict[str, Any]:
        """Insert a transaction of some user; return it as events show it."""
        rng = self._rng
        kopeks = rng.choice(_AMOUNTS_KOPEKS)
        method = rng.choice(_METHODS) if kind == "deposit" else None
        transaction = {
            "user_id": rng.choice(self._shop.users),
            "type": kind,
            "amount_kopeks": kopeks,
            "amount_rubles": kopeks / 100,
            "payment_method": method,
            "external_id": f"{method}-{rng.getrandbits(64):016x}" if method else None,
            "is_completed": completed,
            "description": phrases.description(rng),
        }
        now = _now()
        transaction_id = _id(
            self._connection.execute(
                """insert into transactions (user_id, type, amount_kopeks, description,
                       payment_method, external_id, is_completed, created_at, completed_at)
                   values (%s, %s, %s, %s, %s, %s, %s, %s, %s) returning id""",
                (
                    transaction["user_id"],
                    kind,
                    sign * kopeks,
                    transaction["description"],
                    method,
                    transaction["external_id"],
                    completed,
                    now,
                    now if completed else None,
                ),
            )
        )
        return {"transaction_id": transaction_id, **transaction}

    def _change_balance(self, user_id: int, kopeks: int) -> None:
        self._connection.execute(
            # The amounts are drawn, the column is an integer: keep the sum in its range.
            """update users set balance_kopeks = (balance_kopeks::bigint + %s) %% 1000000000,
                   updated_at = %s where id = %s""",
            (kopeks, _now(), user_id),
        )

    # Support.

    def _open_ticket(self) -> _Announced | None:
        if not self._shop.users:
            return None
        rng = self._rng
        ticket: dict[str, Any] = {
            "user_id": rng.choice(self._shop.users),
            "title": phrases.title(rng),
            "status": "open",
            "priority": rng.choice(_PRIORITIES),
        }
        now = _now()
        ticket_id = _id(
            self._connection.execute(
                """insert into tickets (user_id, title, status, priority,
                       user_reply_block_permanent, created_at, updated_at)
                   values (%s, %s, 'open', %s, false, %s, %s) returning id""",
                (ticket["user_id"], ticket["title"], ticket["priority"], now, now),
            )
        )
        opened = _Ticket(ticket_id, ticket["user_id"], "open")
        has_media = self._insert_message(opened, from_admin=False)["has_media"]
        _remember(self._shop.tickets, opened)
        return [("ticket.created", {"ticket_id": ticket_id, **ticket, "has_media": has_media})]

    def _user_writes(self) -> _Announced | None:
        if not self._shop.tickets:
            return None
        ticket = self._rng.choice(self._shop.tickets)
        if ticket.status == "closed" and self._rng.random() < 0.5:
            # To a closed ticket the message may come alone.
            added = self._insert_message(ticket, from_admin=False)
            return [("ticket.message_added", {**added, "status": "closed"})]
        return self._message(ticket, from_admin=False, status="open")

    def _admin_answers(self) -> _Announced | None:
        if not self._shop.tickets:
            return None
        return self._message(
            self._rng.choice(self._shop.tickets), from_admin=True, status="answered"
        )

    def _message(self, ticket: _Ticket, *, from_admin: bool, status: str) -> _Announced:
        """Insert a message and set the ticket's status, in either order."""
        if self._rng.random() < 0.5:
            changed = self._set_status(ticket, status)
            added = self._insert_message(ticket, from_admin=from_admin)
        else:
            added = self._insert_message(ticket, from_admin=from_admin)
            changed = self._set_status(ticket, status)
        return [("ticket.message_added", {**added, "status": status}), *changed]

    def _change_status(self) -> _Announced | None:
        if not self._shop.tickets:
            return None
        ticket = self._rng.choice(self._shop.tickets)
        others = [s for s in ("open", "answered", "closed", "pending") if s != ticket.status]
        return self._set_status(ticket, self._rng.choice(others))

    def _insert_message(self, ticket: _Ticket, *, from_admin: bool) -> dict[str, Any]:
        """Insert a message; return it as events show it, but for the ticket's status."""
        rng = self._rng
        text = phrases.message(rng)
        # The column may be null, which means no.
        media = rng.choice((None, False, False, True))
        author = rng.choice(self._shop.users) if from_admin else ticket.user_id
        message_id = _id(
            self._connection.execute(
                """insert into ticket_messages (ticket_id, user_id, message_text, is_from_admin,
                       has_media, media_type, media_file_id, created_at)
                   values (%s, %s, %s, %s, %s, %s, %s, %s) returning id""",
                (
                    ticket.id,
                    author,
                    text,
                    from_admin,
                    media,
                    "photo" if media else None,
                    f"AgAC{rng.getrandbits(64):x}" if media else None,
                    _now(),
                ),
            )
        )
        return {
            "ticket_id": ticket.id,
            "message_id": message_id,
            "user_id": author,
            "is_from_admin": from_admin,
            "message_text": text[:200],
            "has_media": bool(media),
        }

    def _set_status(self, ticket: _Ticket, status: str) -> _Announced:
        """Set the status, which need not differ: the bot does not look first."""
        now = _now()
        closed_at = now if status == "closed" else None
        self._connection.execute(
            "update tickets set status = %s, updated_at = %s, closed_at = %s where id = %s",
            (status, now, closed_at, ticket.id),
        )
        before, ticket.status = ticket.status, status
        if before == status:
            return []
        change = {
            "ticket_id": ticket.id,
            "user_id": ticket.user_id,
            "old_status": before,
            "new_status": status,
            "closed_at": None if closed_at is None else closed_at.isoformat(),
        }
        return [("ticket.status_changed", change)]

    # What nobody should hear of.

    def _housekeep(self) -> _Announced | None:
        """Touch rows in ways that announce nothing."""
        if not self._shop.users or not self._shop.settled or not self._shop.tickets:
            return None
        self._connection.execute(
            "update users set last_activity = %s where id = any(%s)",
            (_now(), self._rng.sample(self._shop.users, k=min(3, len(self._shop.users)))),
        )
        self._connection.execute(
            "update transactions set receipt_uuid = %s, is_completed = true where id = %s",
            (
                f"{self._rng.getrandbits(128):032x}",
                self._rng.choice(self._shop.settled)["transaction_id"],
            ),
        )
        self._connection.execute(
            "update tickets set last_sla_reminder_at = %s where id = %s",
            (_now(), self._rng.choice(self._shop.tickets).id),
        )
        return []

    def _change_its_mind(self) -> None:
        """Write what would be five events, and have it rolled back."""
        user_id = self._insert_user(self._connection)["user_id"]
        self._connection.execute(
            """insert into transactions (user_id, type, amount_kopeks, is_completed, created_at)
               values (%s, 'deposit', 100, true, now())""",
            (user_id,),
        )
        ticket_id = _id(
            self._connection.execute(
                """insert into tickets (user_id, title, status, priority,
                       user_reply_block_permanent) values (%s, 'x', 'open', 'low', false)
                   returning id""",
                (user_id,),
            )
        )
        self._insert_message(_Ticket(ticket_id, user_id, "open"), from_admin=False)
        self._connection.execute("update tickets set status = 'closed' where id = %s", (ticket_id,))

    def _repeated_callback(self) -> None:
        """A provider reports a payment twice: the second insert breaks the unique constraint."""
        paid = [t for t in self._shop.settled if t["external_id"] is not None]
        if not paid:
            return
        payment = self._rng.choice(paid)
        try:
            self._connection.execute(
                """insert into transactions (user_id, type, amount_kopeks, payment_method,
                       external_id, is_completed) values (%s, 'deposit', %s, %s, %s, true)""",
                (
                    payment["user_id"],
                    payment["amount_kopeks"],
                    payment["payment_method"],
                    payment["external_id"],
                ),
            )
        except psycopg.errors.UniqueViolation:
            return
        raise AssertionError("the repeated payment was accepted")

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers


def _remember(things: list[Any], thing: object) -> None:
    things.append(thing)
    if len(things) > _REMEMBERED:
        del things[0]


def _id(cursor: psycopg.Cursor[Any]) -> int:
    row = cursor.fetchone()
    assert row is not None  # noqa: S101 - every one of these statements returns the new row
    return int(row[0])


def _now() -> datetime:
    return datetime.now(UTC)
