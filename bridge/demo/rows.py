"""Write the rows of the shop as its bot would, and return them as events show them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

import psycopg

from bridge.demo import phrases

_METHODS = ("yookassa", "cryptobot", "telegram_stars", "sbp", None)
_AMOUNTS_KOPEKS = (1, 99, 10050, 19900, 29900, 50000, 100000, 123456, 2_000_000_000)

Connection = psycopg.Connection[Any]
#: Events that a transaction announces: types and payloads.
Announced = list[tuple[str, dict[str, Any]]]


@dataclass(slots=True)
class Ticket:
    """A ticket, as last committed."""

    id: int
    user_id: int
    status: str


class Rows:
    """Inserts and updates random rows."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._numbers = 0

    def insert_user(self, connection: Connection, referrers: list[int]) -> dict[str, Any]:
        """Insert a user, perhaps referred by one of these."""
        rng = self._rng
        by_email = rng.random() < 0.25
        number = self._number()
        user = {
            "telegram_id": None if by_email else 5_000_000_000 + number * 37,
            "username": None if by_email else phrases.username(rng),
            "first_name": None if by_email and rng.random() < 0.5 else phrases.first_name(rng),
            "last_name": phrases.last_name(rng),
            "referral_code": f"ref{number:06X}",
            "referred_by_id": (rng.choice(referrers) if referrers and rng.random() < 0.3 else None),
        }
        at = now()
        user_id = new_id(
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
                    at,
                    at,
                    at,
                ),
            )
        )
        return {"user_id": user_id, **user}

    def insert_transaction(
        self,
        connection: Connection,
        user_id: int,
        kind: str,
        *,
        completed: bool | None,
        sign: int = 1,
    ) -> dict[str, Any]:
        """Insert a transaction of a user."""
        rng = self._rng
        kopeks = rng.choice(_AMOUNTS_KOPEKS)
        method = rng.choice(_METHODS) if kind == "deposit" else None
        transaction = {
            "user_id": user_id,
            "type": kind,
            "amount_kopeks": kopeks,
            "amount_rubles": kopeks / 100,
            "payment_method": method,
            "external_id": f"{method}-{rng.getrandbits(64):016x}" if method else None,
            "is_completed": completed,
            "description": phrases.description(rng),
        }
        at = now()
        transaction_id = new_id(
            connection.execute(
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
                    at,
                    at if completed else None,
                ),
            )
        )
        return {"transaction_id": transaction_id, **transaction}

    def change_balance(self, connection: Connection, user_id: int, kopeks: int) -> None:
        """Add to a user's balance, modulo the range of its column."""
        connection.execute(
            """update users set balance_kopeks = (balance_kopeks::bigint + %s) %% 1000000000,
                   updated_at = %s where id = %s""",
            (kopeks, now(), user_id),
        )

    def insert_message(
        self, connection: Connection, ticket: Ticket, admin: int | None
    ) -> dict[str, Any]:
        """Insert a message by an admin or by the ticket's user.

        Returns the payload of its event except for the ticket's status.
        """
        rng = self._rng
        text = phrases.message(rng)
        # The column is nullable; null means no media.
        media = rng.choice((None, False, False, True))
        author = ticket.user_id if admin is None else admin
        message_id = new_id(
            connection.execute(
                """insert into ticket_messages (ticket_id, user_id, message_text, is_from_admin,
                       has_media, media_type, media_file_id, created_at)
                   values (%s, %s, %s, %s, %s, %s, %s, %s) returning id""",
                (
                    ticket.id,
                    author,
                    text,
                    admin is not None,
                    media,
                    "photo" if media else None,
                    f"AgAC{rng.getrandbits(64):x}" if media else None,
                    now(),
                ),
            )
        )
        return {
            "ticket_id": ticket.id,
            "message_id": message_id,
            "user_id": author,
            "is_from_admin": admin is not None,
            "message_text": text[:200],
            "has_media": bool(media),
        }

    def set_status(self, connection: Connection, ticket: Ticket, status: str) -> Announced:
        """Set a ticket's status, which may stay the same: the bot does not check."""
        at = now()
        closed_at = at if status == "closed" else None
        connection.execute(
            "update tickets set status = %s, updated_at = %s, closed_at = %s where id = %s",
            (status, at, closed_at, ticket.id),
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

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers


def new_id(cursor: psycopg.Cursor[Any]) -> int:
    """Return the ID of the row that a statement inserted."""
    row = cursor.fetchone()
    assert row is not None  # noqa: S101 - every such statement returns the new row
    return int(row[0])


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
