"""Simulate the bot of a Telegram shop and list the events that each commit must announce.

The bot is the application that must not change: it does not know about the bridge. The expected
events follow from what the bot intended, never from what a trigger wrote.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Any, Self

import psycopg

from bridge.demo import phrases
from bridge.demo.rows import Announced, Rows, Ticket, new_id, now

# How many users, payments and tickets the bot remembers: it may run for days.
_REMEMBERED = 300

_PRIORITIES = ("low", "normal", "normal", "normal", "high", "urgent")


@dataclass(frozen=True, slots=True)
class Commit:
    """One committed transaction: its action, its events, and when COMMIT returned."""

    what: str
    announces: Announced
    committed_at: float  # time.monotonic()


@dataclass(slots=True)
class _Shop:
    """What the bot remembers of its committed rows."""

    users: list[int] = field(default_factory=list)
    pending: list[dict[str, Any]] = field(default_factory=list)  # transactions, as inserted
    settled: list[dict[str, Any]] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)


class Bot:
    """The bot, on two connections.

    ``step`` runs one transaction. At times the second connection holds a sign-up that commits after
    later transactions, as happens in any application with several workers.
    """

    def __init__(self, url: str, *, seed: int = 1) -> None:
        self._rng = Random(seed)
        self._shop = _Shop()
        self._rows = Rows(self._rng)
        self._connection = psycopg.connect(url, application_name="shop bot")
        self._second = psycopg.connect(url, application_name="shop bot")
        self._open_sign_up: tuple[dict[str, Any], int] | None = None
        self._actions: dict[Callable[[], Announced | None], int] = {
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
        """Close both connections, which rolls back an open sign-up."""
        self._connection.close()
        self._second.close()

    def step(self) -> Commit | None:
        """Run one transaction and return what it committed, or None if it was rolled back.

        Raises:
            psycopg.Error: the database is unreachable or rejected a valid statement.
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
            # Either rolled back, which is a step, or there are no rows for this action yet.
            if action in (self._change_its_mind, self._repeated_callback):
                self._connection.rollback()
                return None
        self._connection.commit()
        at = time.monotonic()
        return Commit(action.__name__.strip("_").replace("_", " "), announces, at)

    # Users.

    def _sign_up(self) -> Announced:
        user = self._rows.insert_user(self._connection, self._shop.users)
        _remember(self._shop.users, user["user_id"])
        return [("user.created", user)]

    def _begin_slow_sign_up(self) -> Announced | None:
        """Leave a sign-up uncommitted for some steps."""
        if self._open_sign_up is not None:
            return None
        user = self._rows.insert_user(self._second, self._shop.users)
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

    # Money.

    def _pay(self) -> Announced | None:
        """Make a deposit whose provider confirms it at once."""
        if not self._shop.users:
            return None
        deposit = self._insert_transaction("deposit", completed=True)
        self._rows.change_balance(self._connection, deposit["user_id"], deposit["amount_kopeks"])
        _remember(self._shop.settled, deposit)
        return [("transaction.created", deposit), ("payment.completed", deposit)]

    def _invoice(self) -> Announced | None:
        """Start a deposit or withdrawal that is completed later, if ever."""
        if not self._shop.users:
            return None
        kind = "withdrawal" if self._rng.random() < 0.2 else "deposit"
        pending = self._insert_transaction(kind, completed=self._rng.choice((False, False, None)))
        _remember(self._shop.pending, pending)
        return [("transaction.created", pending)]

    def _settle_invoice(self) -> Announced | None:
        if not self._shop.pending:
            return None
        pending = self._shop.pending.pop(self._rng.randrange(len(self._shop.pending)))
        if self._rng.random() < 0.5:
            self._rows.change_balance(
                self._connection, pending["user_id"], pending["amount_kopeks"]
            )
        self._connection.execute(
            "update transactions set is_completed = true, completed_at = %s where id = %s",
            (now(), pending["transaction_id"]),
        )
        completed = {**pending, "is_completed": True}
        _remember(self._shop.settled, completed)
        return [("payment.completed", completed)] if pending["type"] == "deposit" else []

    def _debit(self) -> Announced | None:
        """Pay for a subscription or a gift from the balance, stored as a negative amount."""
        if not self._shop.users:
            return None
        kind = self._rng.choice(("subscription_payment", "subscription_payment", "gift_payment"))
        debit = self._insert_transaction(kind, completed=True, sign=-1)
        self._rows.change_balance(self._connection, debit["user_id"], -debit["amount_kopeks"])
        return [("transaction.created", debit)]

    def _reward_or_refund(self) -> Announced | None:
        if not self._shop.users:
            return None
        kind = self._rng.choice(("referral_reward", "poll_reward", "refund", "failed_refund"))
        return [("transaction.created", self._insert_transaction(kind, completed=True))]

    def _insert_transaction(
        self, kind: str, *, completed: bool | None, sign: int = 1
    ) -> dict[str, Any]:
        user_id = self._rng.choice(self._shop.users)
        return self._rows.insert_transaction(
            self._connection, user_id, kind, completed=completed, sign=sign
        )

    # Support.

    def _open_ticket(self) -> Announced | None:
        if not self._shop.users:
            return None
        rng = self._rng
        ticket: dict[str, Any] = {
            "user_id": rng.choice(self._shop.users),
            "title": phrases.title(rng),
            "status": "open",
            "priority": rng.choice(_PRIORITIES),
        }
        at = now()
        ticket_id = new_id(
            self._connection.execute(
                """insert into tickets (user_id, title, status, priority,
                       user_reply_block_permanent, created_at, updated_at)
                   values (%s, %s, 'open', %s, false, %s, %s) returning id""",
                (ticket["user_id"], ticket["title"], ticket["priority"], at, at),
            )
        )
        opened = Ticket(ticket_id, ticket["user_id"], "open")
        has_media = self._insert_message(opened, from_admin=False)["has_media"]
        _remember(self._shop.tickets, opened)
        return [("ticket.created", {"ticket_id": ticket_id, **ticket, "has_media": has_media})]

    def _user_writes(self) -> Announced | None:
        if not self._shop.tickets:
            return None
        ticket = self._rng.choice(self._shop.tickets)
        if ticket.status == "closed" and self._rng.random() < 0.5:
            # A message to a closed ticket need not reopen it.
            added = self._insert_message(ticket, from_admin=False)
            return [("ticket.message_added", {**added, "status": "closed"})]
        return self._message(ticket, from_admin=False, status="open")

    def _admin_answers(self) -> Announced | None:
        if not self._shop.tickets:
            return None
        return self._message(
            self._rng.choice(self._shop.tickets), from_admin=True, status="answered"
        )

    def _message(self, ticket: Ticket, *, from_admin: bool, status: str) -> Announced:
        """Insert a message and set the ticket's status, in either order."""
        if self._rng.random() < 0.5:
            changed = self._rows.set_status(self._connection, ticket, status)
            added = self._insert_message(ticket, from_admin=from_admin)
        else:
            added = self._insert_message(ticket, from_admin=from_admin)
            changed = self._rows.set_status(self._connection, ticket, status)
        return [("ticket.message_added", {**added, "status": status}), *changed]

    def _change_status(self) -> Announced | None:
        if not self._shop.tickets:
            return None
        ticket = self._rng.choice(self._shop.tickets)
        others = [s for s in ("open", "answered", "closed", "pending") if s != ticket.status]
        return self._rows.set_status(self._connection, ticket, self._rng.choice(others))

    def _insert_message(self, ticket: Ticket, *, from_admin: bool) -> dict[str, Any]:
        admin = self._rng.choice(self._shop.users) if from_admin else None
        return self._rows.insert_message(self._connection, ticket, admin)

    # What no event announces.

    def _housekeep(self) -> Announced | None:
        """Update columns that no event depends on."""
        if not self._shop.users or not self._shop.settled or not self._shop.tickets:
            return None
        self._connection.execute(
            "update users set last_activity = %s where id = any(%s)",
            (now(), self._rng.sample(self._shop.users, k=min(3, len(self._shop.users)))),
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
            (now(), self._rng.choice(self._shop.tickets).id),
        )
        return []

    def _change_its_mind(self) -> None:
        """Write rows for five events, to be rolled back."""
        user_id = self._rows.insert_user(self._connection, self._shop.users)["user_id"]
        self._connection.execute(
            """insert into transactions (user_id, type, amount_kopeks, is_completed, created_at)
               values (%s, 'deposit', 100, true, now())""",
            (user_id,),
        )
        ticket_id = new_id(
            self._connection.execute(
                """insert into tickets (user_id, title, status, priority,
                       user_reply_block_permanent) values (%s, 'x', 'open', 'low', false)
                   returning id""",
                (user_id,),
            )
        )
        self._insert_message(Ticket(ticket_id, user_id, "open"), from_admin=False)
        self._connection.execute("update tickets set status = 'closed' where id = %s", (ticket_id,))

    def _repeated_callback(self) -> None:
        """Insert a payment that its provider reported before, which violates a constraint."""
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


def _remember(things: list[Any], thing: object) -> None:
    things.append(thing)
    if len(things) > _REMEMBERED:
        del things[0]
