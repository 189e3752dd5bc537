"""API tokens: how they are made, and who a token that is shown belongs to."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
import trio

from bridge.assets import query
from bridge.db import Database, DatabaseUnavailable, Row

EVENTS_READ: Final = "events:read"
WEBHOOKS_READ: Final = "webhooks:read"
WEBHOOKS_WRITE: Final = "webhooks:write"
ADMIN: Final = "admin"
SCOPES: Final = (EVENTS_READ, WEBHOOKS_READ, WEBHOOKS_WRITE, ADMIN)

#: Characters of a token that are kept in clear, for people to recognise it by.
PREFIX_LENGTH = 12
#: Tokens looked up at once, as many as the pool has connections; and how long one waits for its
#: turn. A lookup that has begun cannot be cancelled, and whoever has left meanwhile is kept for it.
CONCURRENT_LOOKUPS = 8
LOOKUP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What a valid token allows."""

    #: Of the row in ``bridge.api_tokens``; None for the static token of the settings.
    id: int | None
    name: str
    scopes: frozenset[str]

    def allows(self, scope: str) -> bool:
        return scope in self.scopes or ADMIN in self.scopes


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


class TokenStore:
    """Knows the tokens of ``bridge.api_tokens`` and the one static token of the settings."""

    def __init__(self, database: Database, static_token: str | None) -> None:
        self._database = database
        self._static_hash = None if static_token is None else hash_token(static_token)
        self._lookups = trio.CapacityLimiter(CONCURRENT_LOOKUPS)

    async def authenticate(self, token: str) -> Grant | None:
        """Return what the token allows, or None for an unknown, expired or revoked one.

        Raises:
            DatabaseUnavailable: it cannot be looked up now.
        """
        digest = hash_token(token)
        if self._static_hash is not None and hmac.compare_digest(digest, self._static_hash):
            return Grant(None, "BRIDGE_TOKEN", frozenset([ADMIN]))
        with trio.move_on_after(LOOKUP_SECONDS):
            async with self._lookups:
                row = await self._database.fetch_one("authenticate", digest)
                return None if row is None else _grant(row)
        raise DatabaseUnavailable("it answers too slowly for all who have a token to show")

    async def grants(self, ids: Iterable[int]) -> list[Grant]:
        """Return what those of some tokens allow that are still valid.

        Raises:
            DatabaseUnavailable: they cannot be looked up now.
        """
        return [_grant(row) for row in await self._database.fetch("valid_tokens", list(ids))]


def _grant(row: Row) -> Grant:
    return Grant(row["id"], row["name"], frozenset(row["scopes"]))


def create_token(
    connection: psycopg.Connection[Any],
    name: str,
    token: str,
    scopes: Iterable[str],
    expires_at: datetime | None,
) -> None:
    """Make a token valid; of the token itself only hash and beginning are kept."""
    connection.execute(
        query("create_token").encode(),
        {
            "name": name,
            "token_hash": hash_token(token),
            "prefix": token[:PREFIX_LENGTH],
            "scopes": list(scopes),
            "expires_at": expires_at,
        },
    )


def list_tokens(connection: psycopg.Connection[Any]) -> Iterator[tuple[str, ...]]:
    """Yield every token as texts: id, name, beginning, scopes, created, expires, used, state."""
    for row in connection.execute(query("list_tokens").encode()):
        yield tuple("" if value is None else str(value) for value in row)


def revoke_token(connection: psycopg.Connection[Any], token_id: int) -> bool:
    """Make a token invalid; return False if there is no valid token with this id."""
    revoked = connection.execute(query("revoke_token").encode(), {"id": token_id})
    return revoked.rowcount == 1
