"""Simulate the bot of a Telegram shop and list the events that each commit must announce.

The bot is the application that must not change: it does not know about the bridge. The expected
events follow from what the bot intended, never from what a trigger wrote.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from random import Random

import psycopg

from bridge.demo.rows import Announced, Row, Rows, now

# How many users, payments and tickets the bot remembers: it may run for days.
_REMEMBERED = 300


@dataclass(frozen=True, slots=True)
class Commit:
    """One committed transaction: its action, its events, and when COMMIT returned."""

    what: str
    announces: Announced
    committed_at: float  # time.monotonic()


class Bot(AbstractContextManager["Bot"]):
    """The bot, on two connections.

    ``step`` runs one transaction. At times the second connection holds a sign-up that commits after
    later transactions, as happens in any application with several workers.
    """

    def __init__(self, url: str, *, seed: int = 1) -> None:
        numbers = itertools.count(1)
        self._rng = Random(seed)
        self._connection = psycopg.connect(url, application_name="shop bot")
        self._second = psycopg.connect(url, application_name="shop bot")
        self._rows = Rows(self._connection, self._rng, numbers)
        self._second_rows = Rows(self._second, self._rng, numbers)
        self._open_sign_up: Row | None = None
        # Committed rows, as events show them; of users only the ID.
        self._users: deque[int] = deque(maxlen=_REMEMBERED)
        self._pending: deque[Row] = deque(maxlen=_REMEMBERED)
        self._settled: deque[Row] = deque(maxlen=_REMEMBERED)
        self._tickets: deque[Row] = deque(maxlen=_REMEMBERED)
        # The first actions make the rows that others need.
        self._first_actions = iter((self._sign_up, self._pay, self._open_ticket))
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

    def __exit__(self, *_: object) -> None:
        """Close both connections, which rolls back an open sign-up."""
        self._connection.close()
        self._second.close()

    def step(self) -> Commit | None:
        """Run one transaction and return what it committed, or None if it was rolled back.

        Raises:
            psycopg.Error: the database is unreachable or rejected a valid statement.
        """
        if self._open_sign_up is not None and self._rng.random() < 0.1:
            return self._end_slow_sign_up(self._open_sign_up)
        [chosen] = self._rng.choices(list(self._actions), list(self._actions.values()))
        action = next(self._first_actions, chosen)
        announces = action()
        if announces is None:
            self._connection.rollback()
            return None
        self._connection.commit()
        at = time.monotonic()
        return Commit(action.__name__.strip("_").replace("_", " "), announces, at)

    # Users.

    def _sign_up(self) -> Announced:
        user = self._rows.insert_user(self._users)
        self._users.append(user["user_id"])
        return [("user.created", user)]

    def _begin_slow_sign_up(self) -> Announced:
        """Leave a sign-up uncommitted for some steps, one at a time."""
        if self._open_sign_up is not None:
            return self._sign_up()
        self._open_sign_up = self._second_rows.insert_user(self._users)
        return []

    def _end_slow_sign_up(self, user: Row) -> Commit:
        self._open_sign_up = None
        self._second.commit()
        at = time.monotonic()
        self._users.append(user["user_id"])
        return Commit("slow sign up", [("user.created", user)], at)

    # Money.

    def _pay(self) -> Announced:
        """Make a deposit whose provider confirms it at once."""
        deposit = self._insert_transaction("deposit", completed=True)
        self._rows.change_balance(deposit["user_id"], deposit["amount_kopeks"])
        self._settled.append(deposit)
        return [("transaction.created", deposit), ("payment.completed", deposit)]

    def _invoice(self) -> Announced:
        """Start a deposit or withdrawal that is completed later, if ever."""
        kind = "withdrawal" if self._rng.random() < 0.2 else "deposit"
        pending = self._insert_transaction(kind, completed=self._rng.choice((False, False, None)))
        self._pending.append(pending)
        return [("transaction.created", pending)]

    def _settle_invoice(self) -> Announced:
        if not self._pending:
            return self._invoice()
        pending = self._rng.choice(self._pending)
        self._pending.remove(pending)
        if self._rng.random() < 0.5:
            self._rows.change_balance(pending["user_id"], pending["amount_kopeks"])
        self._rows.update(
            "transactions", pending["transaction_id"], is_completed=True, completed_at=now()
        )
        completed = {**pending, "is_completed": True}
        self._settled.append(completed)
        return [("payment.completed", completed)] if pending["type"] == "deposit" else []

    def _debit(self) -> Announced:
        """Pay for a subscription or a gift from the balance, stored as a negative amount."""
        kind = self._rng.choice(("subscription_payment", "subscription_payment", "gift_payment"))
        debit = self._insert_transaction(kind, completed=True, sign=-1)
        self._rows.change_balance(debit["user_id"], -debit["amount_kopeks"])
        return [("transaction.created", debit)]

    def _reward_or_refund(self) -> Announced:
        kind = self._rng.choice(("referral_reward", "poll_reward", "refund", "failed_refund"))
        return [("transaction.created", self._insert_transaction(kind, completed=True))]

    def _insert_transaction(self, kind: str, *, completed: bool | None, sign: int = 1) -> Row:
        user_id = self._rng.choice(self._users)
        return self._rows.insert_transaction(user_id, kind, completed=completed, sign=sign)

    # Support.

    def _open_ticket(self) -> Announced:
        ticket = self._rows.insert_ticket(self._rng.choice(self._users))
        message = self._rows.insert_message(ticket, admin=None)
        self._tickets.append(ticket)
        return [("ticket.created", {**ticket, "has_media": message["has_media"]})]

    def _user_writes(self) -> Announced:
        ticket = self._rng.choice(self._tickets)
        if ticket["status"] == "closed" and self._rng.random() < 0.5:
            # A message to a closed ticket need not reopen it.
            added = self._rows.insert_message(ticket, admin=None)
            return [("ticket.message_added", {**added, "status": "closed"})]
        return self._message(ticket, admin=None, status="open")

    def _admin_answers(self) -> Announced:
        admin = self._rng.choice(self._users)
        return self._message(self._rng.choice(self._tickets), admin=admin, status="answered")

    def _message(self, ticket: Row, *, admin: int | None, status: str) -> Announced:
        """Insert a message and set the ticket's status, in either order."""
        if self._rng.random() < 0.5:
            changed = self._rows.set_status(ticket, status)
            added = self._rows.insert_message(ticket, admin)
        else:
            added = self._rows.insert_message(ticket, admin)
            changed = self._rows.set_status(ticket, status)
        return [("ticket.message_added", {**added, "status": status}), *changed]

    def _change_status(self) -> Announced:
        ticket = self._rng.choice(self._tickets)
        others = [s for s in ("open", "answered", "closed", "pending") if s != ticket["status"]]
        return self._rows.set_status(ticket, self._rng.choice(others))

    # What no event announces.

    def _housekeep(self) -> Announced:
        """Update columns that no event depends on."""
        rng, rows = self._rng, self._rows
        rows.update("users", rng.choice(self._users), last_activity=now())
        paid_id = rng.choice(self._settled)["transaction_id"]
        receipt = f"{rng.getrandbits(128):032x}"
        rows.update("transactions", paid_id, receipt_uuid=receipt, is_completed=True)
        ticket_id = rng.choice(self._tickets)["ticket_id"]
        rows.update("tickets", ticket_id, last_sla_reminder_at=now())
        return []

    def _change_its_mind(self) -> None:
        """Write rows for five events, to be rolled back."""
        user_id = self._rows.insert_user(self._users)["user_id"]
        self._rows.insert_transaction(user_id, "deposit", completed=True)
        ticket = self._rows.insert_ticket(user_id)
        self._rows.insert_message(ticket, admin=None)
        self._rows.set_status(ticket, "closed")

    def _repeated_callback(self) -> None:
        """Insert a payment that its provider reported before, which violates a constraint."""
        paid = [each for each in self._settled if each["external_id"] is not None]
        if not paid:
            return
        payment = self._rng.choice(paid)
        columns = ("user_id", "type", "amount_kopeks", "payment_method", "external_id")
        with suppress(psycopg.errors.UniqueViolation):
            self._rows.insert("transactions", **{name: payment[name] for name in columns})
            raise AssertionError("the repeated payment was accepted")
