"""Builds what receivers get, byte for byte: body, identifying headers and signatures.

Requests have two signatures: the contract's ``X-Webhook-Signature``, and that of Standard Webhooks
1.0 (https://www.standardwebhooks.com), which also protects against replay.
"""

import base64
import hmac
import re

from bridge.access import vault as secrets

# Printable ASCII: a line break would start another header.
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")


def message_id(event_id: int, webhook_id: int) -> str:
    """Return the ``webhook-id``, by which receivers recognise repeated attempts."""
    return f"evt_{event_id}_wh_{webhook_id}"


def headers(
    *,
    body: bytes,
    event_type: str,
    webhook_id: int,
    message: str,
    timestamp: int,
    secret: str | None,
    previous_secret: str | None = None,
) -> bytes:
    """Return the headers of one attempt: lines that end in CRLF.

    Args:
        message: the ``webhook-id``.
        timestamp: time of the attempt, in seconds since the epoch.
        secret: the webhook's secret; None: do not sign.
        previous_secret: also sign with this one, during a rotation.

    Raises:
        ValueError: the event type contains characters that a header cannot.
    """
    if not _HEADER_VALUE.fullmatch(event_type):
        raise ValueError(f"event type {event_type!r} has characters that a header cannot contain")
    lines = (
        "Content-Type: application/json\r\n"
        f"X-Webhook-Event: {event_type}\r\n"
        f"X-Webhook-Id: {webhook_id}\r\n"
        f"webhook-id: {message}\r\n"
        f"webhook-timestamp: {timestamp}\r\n"
    )
    if secret:
        lines += f"X-Webhook-Signature: sha256={contract_signature(body, secret)}\r\n"
        signature = standard_signature(body, secret, message, timestamp)
        if previous_secret:
            previous = contract_signature(body, previous_secret)
            lines += f"X-Webhook-Signature-Previous: sha256={previous}\r\n"
            signature += f" {standard_signature(body, previous_secret, message, timestamp)}"
        lines += f"webhook-signature: {signature}\r\n"
    return lines.encode("ascii")


def contract_signature(body: bytes, secret: str) -> str:
    """Return the contract's signature: hex HMAC-SHA256 of the body under the secret's text."""
    return hmac.digest(secret.encode(), body, "sha256").hex()


def standard_signature(body: bytes, secret: str, message: str, timestamp: int) -> str:
    """Return one Standard Webhooks signature over ``id.timestamp.body``."""
    signed = f"{message}.{timestamp}.".encode() + body
    digest = hmac.digest(_standard_key(secret), signed, "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"


def _standard_key(secret: str) -> bytes:
    if secret.startswith(secrets.PREFIX):
        encoded = secret.removeprefix(secrets.PREFIX)
        try:
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except ValueError:
            key = b""
        if key:
            return key
    return secret.encode()  # also if the rest only looks like base64
