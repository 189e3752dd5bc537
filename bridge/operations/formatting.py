"""Format numbers and durations for people, in the terminal and on the console."""

from collections.abc import Callable

# Separates thousands, and a number from its unit, without a line break.
_NARROW_SPACE = "\u202f"

#: Translates a unit or the decimal separator.
Translate = Callable[[str], str]


def number(value: float, digits: int = 0, translate: Translate = str) -> str:
    """Format a number with separated thousands: ``12 345``."""
    return f"{value:,.{digits}f}".replace(",", _NARROW_SPACE).replace(".", translate("."))


def rate(value: float, translate: Translate = str) -> str:
    """Format a rate with two or three significant digits."""
    if not value:
        return "0"
    if value < 0.01:
        return f"<{number(0.01, 2, translate)}"
    return number(value, 2 if value < 1 else 1 if value < 100 else 0, translate)


def percent(share: float | None, translate: Translate = str) -> str:
    """Format a share from 0 to 1 as a percentage. Only 1 is shown as 100 %."""
    if share is None:
        return "–"
    shown = f"{100 * share:.1f}"
    if share < 1 and shown == "100.0":
        shown = "99.9"
    return f"{shown.removesuffix('.0').replace('.', translate('.'))}{_NARROW_SPACE}%"


def duration(seconds: float | None, translate: Translate = str) -> str:
    """Format a duration in a readable unit."""
    if seconds is None:
        return "–"
    if seconds < 0.0995:
        return f"{_short(1000 * seconds, translate)}{_NARROW_SPACE}{translate('ms')}"
    if seconds < 1:
        return f"{1000 * seconds:.0f}{_NARROW_SPACE}{translate('ms')}"
    for unit, size, most in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < most:
            return f"{_short(seconds / size, translate)}{_NARROW_SPACE}{translate(unit)}"
    return f"{seconds / 86_400:.0f}{_NARROW_SPACE}{translate('d')}"


def format_seconds(seconds: float) -> str:
    """Format a duration in whole units, for lines of plain text: ``5 min``."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def period(seconds: int, translate: Translate = str) -> str:
    """Format a round duration: ``15 min``, ``24 h``."""
    unit, size = ("min", 60) if seconds < 3_600 else ("h", 3_600)
    return f"{seconds // size}{_NARROW_SPACE}{translate(unit)}"


def _short(value: float, translate: Translate) -> str:
    return number(value, 0 if value >= 9.95 else 1, translate)
