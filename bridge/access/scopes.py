"""What a token may do.  (pure)"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from bridge.events import PATTERN

EVENTS_READ: Final = "events:read"
WEBHOOKS_READ: Final = "webhooks:read"
WEBHOOKS_WRITE: Final = "webhooks:write"
ADMIN: Final = "admin"
SCOPES: Final = (EVENTS_READ, WEBHOOKS_READ, WEBHOOKS_WRITE, ADMIN)

#: Scopes of one token, and characters of one of them.
MOST_SCOPES: Final = 100
LONGEST_SCOPE: Final = 255

# Which scopes include another, beside admin.
_INCLUDED_IN: Final = {WEBHOOKS_READ: WEBHOOKS_WRITE}
# A scope for events of some types: events:read:ticket.*
_EVENTS_OF: Final = f"{EVENTS_READ}:"


class ScopeError(ValueError):
    """What was given is no list of scopes. The message says why."""


def checked_scopes(scopes: Iterable[str]) -> list[str]:
    """Return scopes, each once and in order.

    Raises:
        ScopeError: there are none or too many, or one of them is no scope.
    """
    chosen = sorted(set(scopes))
    if not 1 <= len(chosen) <= MOST_SCOPES:
        raise ScopeError(f"a token has 1 to {MOST_SCOPES} scopes")
    for scope in chosen:
        if len(scope) > LONGEST_SCOPE or not _is_scope(scope):
            raise ScopeError(
                f"unknown scope {scope[:60]!r}; there are {', '.join(SCOPES)}, "
                f"and {_EVENTS_OF}ticket.* for events of some types"
            )
    return chosen


def allows(scopes: frozenset[str], scope: str) -> bool:
    """Tell whether a token with these scopes may do what a scope is for."""
    if scope == EVENTS_READ:
        return bool(event_patterns(scopes))
    return bool(scopes & {scope, ADMIN, _INCLUDED_IN.get(scope)})


def event_patterns(scopes: frozenset[str]) -> frozenset[str]:
    """Return the patterns of the events that a token with these scopes may see."""
    if scopes & {EVENTS_READ, ADMIN}:
        return frozenset("*")
    return frozenset(
        scope.removeprefix(_EVENTS_OF) for scope in scopes if scope.startswith(_EVENTS_OF)
    )


def _is_scope(scope: str) -> bool:
    if scope in SCOPES:
        return True
    return bool(re.fullmatch(_EVENTS_OF + f"(?:{PATTERN.pattern})", scope))
