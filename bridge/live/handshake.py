"""What a client says in the request that opens the connection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from bridge.access.tokens import token_of_headers


@dataclass(frozen=True, slots=True)
class Opening:
    """The request, read; each is None if the client did not say it.

    Attributes:
        token: of the query, else of a header; empty if it was named and left empty.
        ticket: in place of a token.
        events: patterns, unchecked.
        since: text, unchecked.
        origin: of the page that a browser connects from.
        forwarded_for: what proxies, or anybody, say of whom they have it from.
    """

    token: str | None = field(repr=False)
    ticket: str | None = field(repr=False)
    events: list[str] | None
    since: str | None
    origin: str | None
    forwarded_for: tuple[str, ...]


def read_opening(target: str, headers: Iterable[tuple[bytes, bytes]]) -> Opening:
    """Read a request's target, such as ``/ws?token=…``, and its headers."""
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
