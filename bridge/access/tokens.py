"""API tokens: their secret, its hash, and what it grants."""

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from bridge.access.scopes import allows, event_patterns

#: Characters of a token that are stored in plain text so that people can recognise it.
PREFIX_LENGTH: Final = 12

#: Where a token is stored: the settings, ``bridge.api_tokens``, or ``public.web_api_tokens``.
Source = Literal["setting", "bridge", "bot"]
#: Identity of a token: its source, and its id there.
TokenKey = tuple[Source, int | None]


@dataclass(frozen=True, slots=True)
class Grant:
    """The permissions of a valid token."""

    #: Id of its row; None for the static token of the settings.
    id: int | None
    name: str
    scopes: frozenset[str]
    source: Source = "bridge"

    @property
    def key(self) -> TokenKey:
        """Identity of the token."""
        return self.source, self.id

    @property
    def events(self) -> frozenset[str]:
        """Event-type patterns that it may read."""
        return event_patterns(self.scopes)

    def allows(self, scope: str) -> bool:
        """Return whether it has the permission of a scope."""
        return allows(self.scopes, scope)

    def __str__(self) -> str:
        """Return the token's name for logs and the audit log."""
        if self.source == "setting":
            return self.name
        return f"{self.source} token {self.id} ({self.name})"


def new_token() -> str:
    """Return a new token: ``pgb_`` and 256 random bits."""
    return f"pgb_{secrets.token_urlsafe(32)}"


def hash_token(token: str) -> bytes:
    """Return the stored hash of a token: plain SHA-256, sufficient for 256 random bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def token_of_headers(api_key: str, authorization: str) -> str | None:
    """Return the token of ``X-API-Key``, else of ``Authorization: Bearer``, else None.

    ``X-API-Key`` takes precedence because a proxy may use ``Authorization`` itself.
    """
    if api_key.strip():
        return api_key.strip()
    scheme, _, credentials = authorization.partition(" ")
    return (credentials.strip() or None) if scheme.lower() == "bearer" else None


def too_many(most: int) -> str:
    """Return why no token can be created if this many are valid."""
    return (
        f"there are already {most} valid tokens, the limit of BRIDGE_MAX_TOKENS; revoke some, or "
        "raise it"
    )


def new_row(
    name: str, token: str, scopes: Iterable[str], expires_at: datetime | None, most: int
) -> tuple[object, ...]:
    """Return the parameters of the query ``create_token``.

    Args:
        most: how many valid tokens there may be.
    """
    return name, hash_token(token), token[:PREFIX_LENGTH], list(scopes), expires_at, most
