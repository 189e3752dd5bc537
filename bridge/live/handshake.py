"""The HTTP request that opens a stream: what must be valid and what it asks for."""

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from bridge.access.tokens import token_of_headers

_UPGRADE = re.compile(rb"^upgrade:.*websocket", re.IGNORECASE | re.MULTILINE)

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Opening:
    """The parameters of an opening request; None means the client left one out.

    Attributes:
        token: from the query, else from a header; empty if it was named and left empty.
        ticket: used in place of a token.
        events: unchecked patterns.
        since: unchecked text.
        origin: of the page that a browser connects from.
        forwarded_for: the ``X-Forwarded-For`` headers, which any client can send.
    """

    token: str | None = field(repr=False)
    ticket: str | None = field(repr=False)
    events: list[str] | None
    since: str | None
    origin: str | None
    forwarded_for: tuple[str, ...]


def read_opening(target: str, headers: Headers) -> Opening:
    """Parse a request's target, such as ``/ws?token=…``, and its headers."""
    query = parse_qs(urlsplit(target).query, keep_blank_values=True)
    decoded = [(name.lower(), value.decode("latin-1")) for name, value in headers]
    texts = dict(decoded)
    token = next((query[name][0] for name in ("token", "api_key") if name in query), None)
    if not token:
        named = token_of_headers(texts.get(b"x-api-key", ""), texts.get(b"authorization", ""))
        token = named or token
    events = query.get("events")
    return Opening(
        token,
        query["ticket"][0] if "ticket" in query else None,
        None if events is None else [part.strip() for part in ",".join(events).split(",")],
        query["since"][0] if "since" in query else None,
        texts.get(b"origin"),
        tuple(value for name, value in decoded if name == b"x-forwarded-for"),
    )


def asks_for_websocket(head: bytes) -> bool:
    """Return whether the raw head of a request contains an upgrade to WebSocket."""
    return _UPGRADE.search(head) is not None


def is_valid(head: bytes, headers: Headers) -> bool:
    """Check the HTTP version and the key, which wsproto does not (RFC 6455, section 4.2.1)."""
    request_line, _, _ = head.partition(b"\n")
    keys = [value for name, value in headers if name == b"sec-websocket-key"]
    try:
        [key] = (base64.b64decode(each, validate=True) for each in keys)
    except ValueError:
        return False
    return len(key) == 16 and request_line.rstrip().endswith(b"HTTP/1.1")
