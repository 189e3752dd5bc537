"""Format events as terminal lines, with control characters escaped."""

import json
from datetime import datetime
from zlib import crc32

from rich.text import Text

from bridge.tail.messages import StreamEvent
from bridge.terminal.visible import visible

#: Colours of event types; red is reserved for errors.
TYPE_STYLES = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green")

#: Minimum width of the type column.
TYPE_WIDTH = 21


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
