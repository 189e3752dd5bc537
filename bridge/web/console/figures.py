"""Formats times, payloads and addresses for the pages."""

import json
import re
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

#: Most characters shown of a payload or response.
MOST_SHOWN = 64 * 1024
# Characters that change the writing direction and so reorder the rest of the line.
_BIDI_ESCAPES = {
    code: f"\\u{code:04x}"
    for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def moment(value: datetime | None) -> Markup:
    """Return a time in UTC; the page's script converts it to local time."""
    if value is None:
        return Markup("–")
    in_utc = value.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        in_utc.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        f"{in_utc:%Y-%m-%d %H:%M:%S} UTC",
    )


def pretty(value: Any) -> str:
    """Return a JSON value, or text that may contain one, indented."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return cut(value)
    # Stop early: indenting megabytes takes seconds, during which everything else waits.
    start, length = [], 0
    try:
        for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value):
            start.append(piece[: MOST_SHOWN + 1])
            length += len(piece)
            if length > MOST_SHOWN:
                break
    except RecursionError:  # PostgreSQL allows deeper nesting than Python
        start.append("…")
    return cut("".join(start).translate(_BIDI_ESCAPES))


def cut(text: str) -> str:
    """Return the start of a text, with an ellipsis if it is cut."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def breakable(text: str) -> Markup:
    """Return a URL or an event type with line-break opportunities after its punctuation."""
    return Markup("<wbr>").join(re.split(r"(?<=[/._?])(?=.)", text))
