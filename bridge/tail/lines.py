"""An event as a line on a terminal, where nothing in it may be taken for a command."""

from __future__ import annotations

import json
from datetime import datetime
from zlib import crc32

from rich.text import Text

from bridge.tail.follower import StreamEvent

#: Colours of types: none that means something is wrong.
TYPE_STYLES = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green")

#: Room for a type; longer ones push the payload to the right.
TYPE_WIDTH = 21


def visible(text: str) -> str:
    """Return a text with all that is not printable escaped as in JSON, where it means the same."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _escaped(character) for character in text
    )


def terminal_line(event: StreamEvent) -> Text:
    """Return an event as a person reads it: local time, id, type, payload."""
    payload = json.dumps(event.payload, ensure_ascii=False, separators=(",", ":"))
    return Text.assemble(
        (local_time(event.timestamp), "dim"),
        (f" {event.id:>6} ", "bold"),
        (f"{visible(event.event_type):<{TYPE_WIDTH}}", type_style(event.event_type)),
        "  ",
        visible(payload),
    )


def local_time(timestamp: str) -> str:
    """Return a moment of the stream by the clock on the wall: month, day and time."""
    return datetime.fromisoformat(timestamp).astimezone().strftime("%m-%d %H:%M:%S")


def type_style(event_type: str) -> str:
    """Return a type's colour, the same at every start."""
    return TYPE_STYLES[crc32(event_type.encode()) % len(TYPE_STYLES)]


def _escaped(character: str) -> str:
    if character == "\x7f":  # JSON leaves it as it is
        return "\\u007f"
    return json.dumps(character)[1:-1]
