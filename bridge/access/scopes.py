"""Scopes: what a token permits."""

import re
from collections.abc import Iterable
from typing import Final

from bridge.events import PATTERN

EVENTS_READ: Final = "events:read"
WEBHOOKS_READ: Final = "webhooks:read"
WEBHOOKS_WRITE: Final = "webhooks:write"
ADMIN: Final = "admin"
SCOPES: Final = (EVENTS_READ, WEBHOOKS_READ, WEBHOOKS_WRITE, ADMIN)

#: Most scopes of one token, and most characters of one scope.
MOST_SCOPES: Final = 100
LONGEST_SCOPE: Final = 255

# Scopes that another scope includes; admin includes all.
_INCLUDED_IN: Final = {WEBHOOKS_READ: WEBHOOKS_WRITE}
# Prefix of a scope limited to some event types: events:read:ticket.*
_EVENTS_OF: Final = f"{EVENTS_READ}:"


class ScopeError(ValueError):
    """A list of scopes is invalid. The message says why."""


def checked_scopes(scopes: Iterable[str]) -> list[str]:
    """Validate scopes; return them sorted and without duplicates.

    Raises:
        ScopeError: the list is empty or too long, or contains an unknown scope.
    """
    chosen = sorted(set(scopes))
    if not 1 <= len(chosen) <= MOST_SCOPES:
        raise ScopeError(f"a token takes 1 to {MOST_SCOPES} scopes")
    for scope in chosen:
        if len(scope) > LONGEST_SCOPE or not _is_scope(scope):
            raise ScopeError(
                f"unknown scope {scope[:60]!r}; valid scopes are {', '.join(SCOPES)}, and "
                f"{_EVENTS_OF}ticket.* (any pattern) to limit a token to some event types"
            )
    return chosen


def allows(scopes: frozenset[str], scope: str) -> bool:
    """Return whether a token with these scopes has the permission of ``scope``."""
    if scope == EVENTS_READ:
        return bool(event_patterns(scopes))
    return bool(scopes & {scope, ADMIN, _INCLUDED_IN.get(scope)})


def event_patterns(scopes: frozenset[str]) -> frozenset[str]:
    """Return the event-type patterns that a token with these scopes may read."""
    if scopes & {EVENTS_READ, ADMIN}:
        return frozenset("*")
    return frozenset(
        scope.removeprefix(_EVENTS_OF) for scope in scopes if scope.startswith(_EVENTS_OF)
    )


def _is_scope(scope: str) -> bool:
    if scope in SCOPES:
        return True
    return bool(re.fullmatch(_EVENTS_OF + f"(?:{PATTERN.pattern})", scope))
