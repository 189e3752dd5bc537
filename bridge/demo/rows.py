"""Write the rows of the shop as its bot would, and return them as events show them."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier, Placeholder

from bridge.demo import phrases

_METHODS = ("yookassa", "cryptobot", "telegram_stars", "sbp", None)
_AMOUNTS_KOPEKS = (1, 99, 10050, 19900, 29900, 50000, 100000, 123456, 2_000_000_000)
_PRIORITIES = ("low", "normal", "normal", "normal", "high", "urgent")

Row = dict[str, Any]
#: Events that a transaction announces: types and payloads.
Announced = list[tuple[str, Row]]


class Rows:
    """Inserts and updates random rows over one connection.

    Args:
        numbers: numbers of users that no other connection uses.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], rng: Random, numbers: Iterator[int]
    ) -> None:
        self._connection = connection
        self._rng = rng
        self._numbers = numbers

    def insert(self, table: str, **values: object) -> int:
        """Insert a row and return its ID."""
        statement = SQL("insert into {} ({}) values ({}) returning id").format(
            Identifier(table),
            SQL(", ").join(map(Identifier, values)),
            SQL(", ").join(map(Placeholder, values)),
        )
        [(row_id,)] = self._connection.execute(statement, values).fetchall()
        return int(row_id)

    def update(self, table: str, row_id: int, **values: object) -> None:
        """Set columns of a row."""
        changes = [SQL("{} = {}").format(Identifier(name), Placeholder(name)) for name in values]
        statement = SQL("update {} set {} where id = {}").format(
            Identifier(table), SQL(", ").join(changes), row_id
        )
        self._connection.execute(statement, values)

    def insert_user(self, referrers: Sequence[int]) -> Row:
        """Insert a user, perhaps referred by one of these."""
        rng, number, at = self._rng, next(self._numbers), now()
        by_email = rng.random() < 0.25
        email = f"user{number}@example.com" if by_email else None
        user = {
            "telegram_id": None if by_email else 5_000_000_000 + number * 37,
            "username": None if by_email else rng.choice(phrases.USERNAMES),
            "first_name": (
                None if by_email and rng.random() < 0.5 else rng.choice(phrases.FIRST_NAMES)
            ),
            "last_name": rng.choice(phrases.LAST_NAMES),
            "referral_code": f"ref{number:06X}",
            "referred_by_id": rng.choice(referrers) if referrers and rng.random() < 0.3 else None,
        }
        user_id = self.insert(
            "users",
            **user,
            auth_type="email" if by_email else "telegram",
            status="active",
            language="ru",
            balance_kopeks=0,
            email=email,
            password_hash="$2b$12$not-for-anyone-else" if by_email else None,
            created_at=at,
            updated_at=at,
            last_activity=at,
        )
        more = {"email": email, "auth_type": "email"} if by_email else {}
        return {"user_id": user_id, **user, **more}

    def insert_transaction(
        self, user_id: int, kind: str, *, completed: bool | None, sign: int = 1
    ) -> Row:
        """Insert a transaction of a user."""
        rng, at = self._rng, now()
        kopeks = rng.choice(_AMOUNTS_KOPEKS)
        method = rng.choice(_METHODS) if kind == "deposit" else None
        transaction = {
            "user_id": user_id,
            "type": kind,
            "payment_method": method,
            "external_id": f"{method}-{rng.getrandbits(64):016x}" if method else None,
            "is_completed": completed,
            "description": rng.choice(phrases.DESCRIPTIONS),
        }
        transaction_id = self.insert(
            "transactions",
            **transaction,
            amount_kopeks=sign * kopeks,
            created_at=at,
            completed_at=at if completed else None,
        )
        return {
            "transaction_id": transaction_id,
            **transaction,
            "amount_kopeks": kopeks,
            "amount_rubles": kopeks / 100,
        }

    def change_balance(self, user_id: int, kopeks: int) -> None:
        """Add to a user's balance, modulo the range of its column."""
        self._connection.execute(
            """update users set balance_kopeks = (balance_kopeks::bigint + %s) %% 1000000000,
                   updated_at = %s where id = %s""",
            (kopeks, now(), user_id),
        )

    def insert_ticket(self, user_id: int) -> Row:
        """Insert a ticket of a user."""
        at = now()
        ticket = {
            "user_id": user_id,
            "title": phrases.title(self._rng),
            "status": "open",
            "priority": self._rng.choice(_PRIORITIES),
        }
        ticket_id = self.insert(
            "tickets", **ticket, user_reply_block_permanent=False, created_at=at, updated_at=at
        )
        return {"ticket_id": ticket_id, **ticket}

    def insert_message(self, ticket: Row, admin: int | None) -> Row:
        """Insert a message by an admin or by the ticket's user.

        Returns the payload of its event except for the ticket's status.
        """
        text = phrases.message(self._rng)
        # The column is nullable; null means no media.
        media = self._rng.choice((None, False, False, True))
        message = {
            "ticket_id": ticket["ticket_id"],
            "user_id": ticket["user_id"] if admin is None else admin,
            "is_from_admin": admin is not None,
        }
        message_id = self.insert(
            "ticket_messages",
            **message,
            message_text=text,
            has_media=media,
            media_type="photo" if media else None,
            media_file_id=f"AgAC{self._rng.getrandbits(64):x}" if media else None,
            created_at=now(),
        )
        return {
            "message_id": message_id,
            **message,
            "message_text": text[:200],
            "has_media": bool(media),
        }

    def set_status(self, ticket: Row, status: str) -> Announced:
        """Set a ticket's status, which may stay the same: the bot does not check."""
        at = now()
        closed_at = at if status == "closed" else None
        self.update(
            "tickets", ticket["ticket_id"], status=status, updated_at=at, closed_at=closed_at
        )
        before, ticket["status"] = ticket["status"], status
        if before == status:
            return []
        change = {
            "ticket_id": ticket["ticket_id"],
            "user_id": ticket["user_id"],
            "old_status": before,
            "new_status": status,
            "closed_at": None if closed_at is None else closed_at.isoformat(),
        }
        return [("ticket.status_changed", change)]


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
