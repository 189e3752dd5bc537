"""API tokens: what they are, how they are made, listed and revoked."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import psycopg

from bridge.access.scopes import allows, event_patterns
from bridge.assets import query

#: Characters of a token that are kept in clear, for people to recognise it by.
PREFIX_LENGTH: Final = 12

#: Where a token is: the settings, ``bridge.api_tokens``, or the bot's ``public.web_api_tokens``.
Source = Literal["setting", "bridge", "bot"]
#: What a token is known by: where it is, and its id there.
TokenKey = tuple[Source, int | None]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a valid token allows."""

    #: Of the row in the table that it is in; None for the static token of the settings.
    id: int | None
    name: str
    scopes: frozenset[str]
    source: Source = "bridge"

    @property
    def key(self) -> TokenKey:
        """What the token is known by."""
        return self.source, self.id

    @property
    def events(self) -> frozenset[str]:
        """The patterns of the events that it may see."""
        return event_patterns(self.scopes)

    def allows(self, scope: str) -> bool:
        """Tell whether it may do what a scope is for."""
        return allows(self.scopes, scope)

    def __str__(self) -> str:
        """Return how it is written down who did something."""
        if self.source == "setting":
            return self.name
        return f"{self.source} token {self.id} ({self.name})"


@dataclass(frozen=True, slots=True)
class BotTokens:
    """How the bot's own tokens are stored, and what they allow here.

    Attributes:
        algorithm: ``sha256``, ``sha384`` or ``sha512``.
        secret: key of the HMAC; None: it is a plain hash.
        scopes: of each of them.
    """

    algorithm: str
    secret: bytes | None
    scopes: frozenset[str]

    def __repr__(self) -> str:
        return f"<BotTokens by {self.algorithm}>"

    def hash(self, token: str) -> str:
        """Return what the bot stores of a token."""
        text = token.encode("utf-8", "surrogatepass")
        if self.secret is None:
            return hashlib.new(self.algorithm, text).hexdigest()
        return hmac.new(self.secret, text, self.algorithm).hexdigest()


def new_token() -> str:
    """Return a fresh token: ``pgb_`` and 256 random bits."""
    return f"pgb_{secrets.token_urlsafe(32)}"


def hash_token(token: str) -> bytes:
    """Return what is stored of a token: a plain SHA-256, enough for 256 random bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def token_of_headers(api_key: str, authorization: str) -> str | None:
    """Return the token in ``X-API-Key``, else that in ``Authorization: Bearer``, else None.

    ``X-API-Key`` goes first: a proxy may need ``Authorization`` for itself.
    """
    if api_key.strip():
        return api_key.strip()
    scheme, _, credentials = authorization.partition(" ")
    return (credentials.strip() or None) if scheme.lower() == "bearer" else None


def create_token(
    connection: psycopg.Connection[Any],
    name: str,
    token: str,
    scopes: Iterable[str],
    expires_at: datetime | None,
) -> None:
    """Make a token valid; of the token itself only hash and beginning are kept."""
    with psycopg.RawCursor(connection) as cursor:
        cursor.execute(query("create_token").encode(), new_row(name, token, scopes, expires_at))


def new_row(
    name: str, token: str, scopes: Iterable[str], expires_at: datetime | None
) -> tuple[object, ...]:
    """Return what ``create_token`` takes of a new token."""
    return name, hash_token(token), token[:PREFIX_LENGTH], list(scopes), expires_at


def list_tokens(connection: psycopg.Connection[Any]) -> Iterator[tuple[str, ...]]:
    """Yield every token as texts: id, name, beginning, scopes, created, expires, used, state."""
    with psycopg.RawCursor(connection) as cursor:
        rows = cursor.execute(query("list_tokens").encode(), [None, 0]).fetchall()
    for _, token_id, name, prefix, scopes, *moments, state in reversed(rows):
        if token_id is None:  # there are none
            return
        yield (
            str(token_id),
            name,
            f"{prefix}…",
            " ".join(scopes),
            *("" if moment is None else f"{moment:%Y-%m-%d %H:%M}" for moment in moments),
            state,
        )


def revoke_token(connection: psycopg.Connection[Any], token_id: int) -> bool:
    """Make a token invalid; return False if there is no valid token with this id."""
    with psycopg.RawCursor(connection) as cursor:
        return cursor.execute(query("revoke_token").encode(), [token_id]).rowcount == 1
