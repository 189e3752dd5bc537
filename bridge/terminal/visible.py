"""Escapes characters that a terminal obeys or does not show.  (pure)"""

import json
from typing import Final

#: Characters that no name may have, as part of a regular expression of Python, JSON Schema and
#: PostgreSQL: controls, line separators, and characters that change the direction of writing.
#: ``bridge.without_controls`` has the same.
CONTROLS: Final = r"\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"


def visible(text: str, *, keep: str = "") -> str:
    """Escape unprintable and invisible characters as JSON does, so that JSON keeps its meaning.

    Args:
        keep: characters to leave as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else json.dumps(character)[1:-1]
        for character in text
    )
