"""WebSocket frames built by the bridge itself, and events in the form the hub sends (RFC 6455)."""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from sys import intern

from bridge.events import Event
from bridge.live.selection import Selection

_TEXT = 0x81  # FIN and opcode 1
_CLOSE = 0x88  # FIN and opcode 8

#: The first byte of a close frame and of no other frame the bridge sends.
CLOSE_HEAD = bytes([_CLOSE])

#: A ping without a payload. Any answer counts, whatever it contains.
PING_FRAME = b"\x89\x00"  # FIN and opcode 9

#: One write to a client holds at most this many bytes, or a single larger event.
CHUNK_BYTES = 64 * 1024

#: Frames joined for one write, the id of the last event in it, and the number of events.
Chunk = tuple[bytes, int, int]


@dataclass(frozen=True, slots=True)
class FramedEvent:
    """An event encoded as a WebSocket frame, once for all clients."""

    id: int
    event_type: str
    frame: bytes

    @property
    def size(self) -> int:
        """Approximate memory use in bytes."""
        return len(self.frame) + 200


def frame_events(events: Iterable[Event]) -> list[FramedEvent]:
    """Encode events for sending."""
    return [
        FramedEvent(each.id, intern(each.event_type), text_frame(each.wire())) for each in events
    ]


def chunks(events: Iterable[FramedEvent], selection: Selection) -> Iterator[Chunk]:
    """Yield the frames of the selected events, joined into writes."""
    joined: list[bytes] = []
    size = last_id = 0
    for each in events:
        if not selection.takes(each.event_type):
            continue
        if joined and size + len(each.frame) > CHUNK_BYTES:
            yield b"".join(joined), last_id, len(joined)
            joined, size = [], 0
        joined.append(each.frame)
        size += len(each.frame)
        last_id = each.id
    if joined:
        yield b"".join(joined), last_id, len(joined)


def text_frame(text: str) -> bytes:
    """Return a text message as one unmasked frame."""
    return _frame(_TEXT, text.encode())


def message_frame(message: Mapping[str, object]) -> bytes:
    """Return a message as JSON in one frame."""
    return text_frame(json.dumps(message))


def close_frame(code: int, reason: str) -> bytes:
    """Return a close frame; the reason is cut at 123 bytes, the limit of a control frame."""
    return _frame(_CLOSE, struct.pack("!H", code) + reason.encode()[:123])


def _frame(head: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", head, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", head, 126, size) + payload
    return struct.pack("!BBQ", head, 127, size) + payload
