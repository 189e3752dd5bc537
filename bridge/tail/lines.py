"""Format events as terminal lines, with control characters escaped."""

import json
from datetime import datetime
from zlib import crc32

from rich.text import Text

from bridge.tail.messages import StreamEvent

#: Colours of event types; red is reserved for errors.
TYPE_STYLES = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green")

#: Minimum width of the type column.
TYPE_WIDTH = 21


def visible(text: str) -> str:
    """Escape unprintable characters as JSON does, so that JSON keeps its meaning."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _escaped(character) for character in text
    )


def terminal_line(event: StreamEvent) -> Text:
    """Format an event: local time, ID, type, payload."""
    payload = json.dumps(event.payload, ensure_ascii=False, separators=(",", ":"))
    # Not hash(): a type keeps its colour in every run.
    style = TYPE_STYLES[crc32(event.event_type.encode()) % len(TYPE_STYLES)]
    return Text.assemble(
        (f"{datetime.fromisoformat(event.timestamp).astimezone():%m-%d %H:%M:%S}", "dim"),
        (f" {event.id:>6} ", "bold"),
        (f"{visible(event.event_type):<{TYPE_WIDTH}}", style),
        "  ",
        visible(payload),
    )


def _escaped(character: str) -> str:
    if character == "\x7f":  # JSON does not escape DEL
        return "\\u007f"
    return json.dumps(character)[1:-1]
