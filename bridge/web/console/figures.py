"""How numbers, times and payloads are written for people.  (pure)"""

import json
import re
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from bridge.web.console.language import Translate

#: Characters of a payload or an answer that a page shows.
MOST_SHOWN = 64 * 1024
# Between the thousands of a number; it does not break a line.
_NARROW_SPACE = "\u202f"


def number(value: float, digits: int = 0) -> str:
    """Return a number with its thousands apart: ``12 345``."""
    return f"{value:,.{digits}f}".replace(",", _NARROW_SPACE)


def rate(value: float) -> str:
    """Return how many a second, as exactly as one looks at it."""
    if not value:
        return "0"
    if value < 0.01:
        return "<0.01"
    return number(value, 2 if value < 1 else 1 if value < 100 else 0)


def percent(share: float | None) -> str:
    """Return a share of 1 in percent. Only what is whole is called 100 %."""
    if share is None:
        return "–"
    shown = f"{100 * share:.1f}"
    if share < 1 and shown == "100.0":
        shown = "99.9"
    return f"{shown.removesuffix('.0')}\u202f%"


def duration(seconds: float | None, translate: Translate) -> str:
    """Return a time in the unit in which people think of it."""
    if seconds is None:
        return "–"
    if seconds < 0.0995:
        return f"{_short(1000 * seconds)}{_NARROW_SPACE}{translate('ms')}"
    if seconds < 1:
        return f"{1000 * seconds:.0f}{_NARROW_SPACE}{translate('ms')}"
    for unit, size, most in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < most:
            return f"{_short(seconds / size)}{_NARROW_SPACE}{translate(unit)}"
    return f"{seconds / 86_400:.0f}{_NARROW_SPACE}{translate('d')}"


def period(seconds: int, translate: Translate) -> str:
    """Return a round time: ``15 min``, ``24 h``."""
    unit, size = ("min", 60) if seconds < 3_600 else ("h", 3_600)
    return f"{seconds // size}{_NARROW_SPACE}{translate(unit)}"


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
    return cut(json.dumps(value, indent=2, ensure_ascii=False))


def cut(text: str) -> str:
    """Return the beginning of a text, with a sign that there is more."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def breakable(text: str) -> Markup:
    """Return a URL or a type that may be broken behind its signs, where a line ends."""
    return Markup("<wbr>").join(re.split(r"(?<=[/._?])(?=.)", text))


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"
