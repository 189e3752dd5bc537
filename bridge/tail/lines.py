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
    return Text.assemble(
        (local_time(event.timestamp), "dim"),
        (f" {event.id:>6} ", "bold"),
        (f"{visible(event.event_type):<{TYPE_WIDTH}}", type_style(event.event_type)),
        "  ",
        visible(payload),
    )


def local_time(timestamp: str) -> str:
    """Format a timestamp in local time: month, day and time."""
    return datetime.fromisoformat(timestamp).astimezone().strftime("%m-%d %H:%M:%S")


def type_style(event_type: str) -> str:
    """Return the colour of an event type, the same in every run."""
    return TYPE_STYLES[crc32(event_type.encode()) % len(TYPE_STYLES)]


def _escaped(character: str) -> str:
    if character == "\x7f":  # JSON does not escape DEL
        return "\\u007f"
    return json.dumps(character)[1:-1]
