"""Builds the request of a delivery for display, without values that are secret or not known yet."""

from dataclasses import dataclass
from typing import Final

from bridge.delivery.signing import canonical_body, headers, message_id
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


def preview(
    *,
    url: str,
    event_id: int,
    event_type: str,
    webhook_id: int,
    payload: str | None,
    is_signed: bool,
    is_signed_twice: bool,
) -> Preview:
    """Return the request of a delivery, without its signatures.

    Args:
        payload: the event's JSON; None if it is no longer in the log.
        is_signed: whether the webhook has a secret.
        is_signed_twice: whether the previous secret also still signs.

    Raises:
        ValueError: the request cannot be built.
    """
    body = None if payload is None else canonical_body(payload)
    own = headers(
        body=body or b"",
        event_type=event_type,
        webhook_id=webhook_id,
        message=message_id(event_id, webhook_id),
        timestamp=0,
        secret=_ANY_KEY if is_signed else None,
        previous_secret=_ANY_KEY if is_signed_twice else None,
    )
    lines = (parse_url(url).head + own).decode("ascii").splitlines()[1:]
    named = [tuple(line.split(": ", 1)) for line in lines]
    shown = [(name, None if name in _MADE_AT_EACH_ATTEMPT else value) for name, value in named]
    if body is not None:
        shown.append(("Content-Length", str(len(body))))
    return Preview(shown, None if body is None else body.decode("ascii"))
