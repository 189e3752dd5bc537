"""Says what is unknown, and what was probably meant.  (pure)"""

import difflib
from collections.abc import Iterable
from typing import Final

from bridge.terminal.visible import visible

#: Longest name to compare with others, in characters: the time is quadratic in it. Longer ones are
#: also cut where they are shown.
LONGEST: Final = 100


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return a message such as ``unknown field "fliter"; did you mean "filter"?``.

    Args:
        kind: what the name is of.
        known: the names that are possible.
    """
    message = f'unknown {kind} "{shown(name)}"'
    meant = nearest(name, known)
    return message if meant is None else f'{message}; did you mean "{meant}"?'


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like another, whatever its case; None if none is."""
    if len(name) > LONGEST:
        return None
    by_lower_case = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return by_lower_case[near[0]] if near else None


def shown(name: str) -> str:
    """Return a name from a client as a message can show it: in one line, and not too long."""
    return visible(name if len(name) <= LONGEST else f"{name[:LONGEST]}…")
