"""What a follower passes on, and how it parses what the bridge sends."""

import re
from dataclasses import dataclass
from typing import Any

from bridge.events import parse_payload

# An event as the bridge formats it, for payloads nested too deep to parse.
_OUTLINE = re.compile(
    r'\{"type":"([^"\\]+)","payload":.*,"timestamp":"([^"\\]+)","id":(\d+)\}', re.DOTALL
)


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """An event with its parsed payload, and the text of its message."""

    id: int
    event_type: str
    timestamp: str
    payload: Any
    text: str


@dataclass(frozen=True, slots=True)
class Gap:
    """A range of IDs that the log no longer has, and the text of the message that says so."""

    since: int
    available_from: int
    text: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A change of the connection, in words."""

    line: str


Message = StreamEvent | Gap | Notice


def parse_message(text: str | bytes) -> Any:
    """Parse a message; return None if it is not JSON."""
    try:
        return parse_payload(text if isinstance(text, str) else text.decode())
    except RecursionError:
        outline = _OUTLINE.fullmatch(str(text))
        if outline is None:
            return None
        event_type, timestamp, event_id = outline.groups()
        return {
            "type": event_type,
            "payload": "nested too deep to show",
            "timestamp": timestamp,
            "id": int(event_id),
        }
    except ValueError:
        return None
