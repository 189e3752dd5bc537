"""How moments, payloads and addresses are written on the pages.  (pure)"""

import json
import re
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

#: Characters of a payload or an answer that a page shows.
MOST_SHOWN = 64 * 1024
# Characters that turn the direction of writing: what follows one in a line stands elsewhere.
_BIDI_ESCAPES = {
    code: f"\\u{code:04x}"
    for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def moment(value: datetime | None) -> Markup:
    """Return a time in UTC; the page's script makes it one of the reader's own clock."""
    if value is None:
        return Markup("–")
    in_utc = value.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        in_utc.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        f"{in_utc:%Y-%m-%d %H:%M:%S} UTC",
    )


def pretty(value: Any) -> str:
    """Return a JSON value, or text that may be one, over several lines."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return cut(value)
    # Not laid out to its end: of a payload of megabytes that takes seconds, and all else waits.
    beginning, length = [], 0
    try:
        for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value):
            beginning.append(piece[: MOST_SHOWN + 1])
            length += len(piece)
            if length > MOST_SHOWN:
                break
    except RecursionError:  # PostgreSQL takes more lists within each other than Python
        beginning.append("…")
    return cut("".join(beginning).translate(_BIDI_ESCAPES))


def cut(text: str) -> str:
    """Return the beginning of a text, with a sign that there is more."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def breakable(text: str) -> Markup:
    """Return a URL or a type that may be broken behind its signs, where a line ends."""
    return Markup("<wbr>").join(re.split(r"(?<=[/._?])(?=.)", text))
