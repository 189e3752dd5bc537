"""The WebSocket frames that are sent past trio-websocket (RFC 6455, section 5.2)."""

import struct

_TEXT = 0x81  # FIN and opcode 1
_CLOSE = 0x88  # FIN and opcode 8

#: What a close frame begins with, and nothing else that is sent.
CLOSE_HEAD = bytes([_CLOSE])

#: A ping; what a client answers it with is not looked at, only that it does.
PING_FRAME = b"\x89\x00"  # FIN and opcode 9


def text_frame(text: str) -> bytes:
    """Return a text message as one frame. A server's frames are not masked."""
    return _frame(_TEXT, text.encode())


def close_frame(code: int, reason: str) -> bytes:
    """Return a close frame; a reason of more than 123 bytes is cut, as a control frame must be."""
    return _frame(_CLOSE, struct.pack("!H", code) + reason.encode()[:123])


def _frame(head: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", head, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", head, 126, size) + payload
    return struct.pack("!BBQ", head, 127, size) + payload
