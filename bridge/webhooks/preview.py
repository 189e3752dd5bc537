"""Builds the request of a delivery for display, without values that are secret or not known yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bridge.delivery.body import canonical_body
from bridge.delivery.signing import headers, message_id
from bridge.delivery.url import parse_url

#: Headers that differ between attempts or depend on the secret.
_MADE_AT_EACH_ATTEMPT: Final = frozenset(
    [
        "webhook-timestamp",
        "webhook-signature",
        "X-Webhook-Signature",
        "X-Webhook-Signature-Previous",
    ]
)
#: A placeholder key: signatures are not shown.
_ANY_KEY: Final = "any"


@dataclass(frozen=True, slots=True)
class Preview:
    """A request as it would be sent now; past requests are not stored."""

    #: Names and values in order; a value is None if it differs between attempts.
    headers: list[tuple[str, str | None]]
    #: None if the event is no longer in the log.
    body: str | None


def preview(parts: Mapping[str, Any]) -> Preview:
    """Return the request of a delivery, without its signatures.

    Args:
        parts: a row of ``delivery_request``, with a URL.

    Raises:
        ValueError: the request cannot be built.
    """
    body = None if parts["payload"] is None else canonical_body(parts["payload"])
    own = headers(
        body=body or b"",
        event_type=parts["event_type"],
        webhook_id=parts["webhook_id"],
        message=message_id(parts["event_id"], parts["webhook_id"]),
        timestamp=0,
        secret=_ANY_KEY if parts["is_signed"] else None,
        previous_secret=_ANY_KEY if parts["is_signed_twice"] else None,
    )
    lines = (parse_url(parts["url"]).head + own).decode("ascii").splitlines()[1:]
    named = [tuple(line.split(": ", 1)) for line in lines]
    shown = [(name, None if name in _MADE_AT_EACH_ATTEMPT else value) for name, value in named]
    if body is not None:
        shown.append(("Content-Length", str(len(body))))
    return Preview(shown, None if body is None else body.decode("ascii"))
