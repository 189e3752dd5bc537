"""Bodies and signatures are what the contract's receivers and Standard Webhooks verify."""

import hashlib
import hmac
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from bridge.delivery import signing
from bridge.delivery.body import canonical_body

HARD = {
    "text": "Привет 🎉 «кавычки» \"'\\ \n\t\u202e",
    "n": 100.5,
    "nested": {"b": [1, None], "a": True},
}


def verify_webhook_signature(payload: object, signature_header: str, secret: str) -> bool:
    """The contract document's own example, to the letter."""
    payload_json = json.dumps(payload, sort_keys=True)
    expected_signature = hmac.new(
        secret.encode("utf-8"), payload_json.encode("utf-8"), hashlib.sha256
    ).hexdigest()
    received_signature = signature_header.replace("sha256=", "")
    return hmac.compare_digest(expected_signature, received_signature)


def signed(
    payload: str, secret: str | None, previous_secret: str | None = None
) -> tuple[bytes, dict[str, str]]:
    body = canonical_body(payload)
    lines = signing.headers(
        body=body,
        event_type="ticket.created",
        webhook_id=7,
        message=signing.message_id(12, 7),
        timestamp=int(datetime.now(UTC).timestamp()),
        secret=secret,
        previous_secret=previous_secret,
    ).decode("ascii")
    assert lines.endswith("\r\n")
    return body, dict(line.split(": ", 1) for line in lines[:-2].split("\r\n"))


def standard_verifier(secret: str) -> Webhook:
    """A receiver by Standard Webhooks; a text that is no ``whsec_`` is the key itself."""
    return Webhook(secret if secret.startswith("whsec_") else secret.encode())


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(payload=json_values, secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_every_payload_verifies_by_both_schemes(payload: object, secret: str) -> None:
    body, headers = signed(json.dumps(payload, ensure_ascii=False), secret)
    assert verify_webhook_signature(json.loads(body), headers["X-Webhook-Signature"], secret)
    raw = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Webhook-Signature"] == f"sha256={raw}", "the same bytes verify raw"
    if not secret.startswith("whsec_"):
        Webhook(secret.encode()).verify(body, headers)


def test_whsec_secret_is_a_base64_key() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body, headers = signed(json.dumps(HARD), secret)
    assert Webhook(secret).verify(body, headers) == HARD
    assert verify_webhook_signature(json.loads(body), headers["X-Webhook-Signature"], secret)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_это не base64", "whsec_a"])
def test_invalid_whsec_secret_signs_as_text(secret: str) -> None:
    body, headers = signed("{}", secret)
    Webhook(secret.encode()).verify(body, headers)


def test_changed_body_does_not_verify() -> None:
    body, headers = signed(json.dumps(HARD), "secret")
    changed = json.loads(body) | {"n": 100.6}
    assert not verify_webhook_signature(changed, headers["X-Webhook-Signature"], "secret")


@pytest.mark.parametrize("old", ["your-secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
@pytest.mark.parametrize("new", ["новый", "whsec_" + "QUJD" * 11])
def test_either_secret_verifies_during_a_rotation(old: str, new: str) -> None:
    body, headers = signed(json.dumps(HARD), new, old)
    for secret, header in (
        (new, "X-Webhook-Signature"),
        (old, "X-Webhook-Signature-Previous"),
    ):
        assert standard_verifier(secret).verify(body, headers) == HARD
        assert verify_webhook_signature(json.loads(body), headers[header], secret)
    with pytest.raises(WebhookVerificationError):
        Webhook(b"another").verify(body, headers)


def test_new_signature_comes_first_during_a_rotation() -> None:
    _, alone = signed("{}", "new")
    _, both = signed("{}", "new", "old")
    assert both["X-Webhook-Signature"] == alone["X-Webhook-Signature"]
    first, second = both["webhook-signature"].split(" ")
    assert first == alone["webhook-signature"]
    assert second.startswith("v1,")
    assert "X-Webhook-Signature-Previous" not in alone


def test_previous_secret_alone_does_not_sign() -> None:
    _, headers = signed("{}", None, "old")
    assert not [name for name in headers if "signature" in name.lower()]


def test_unsigned_request_still_has_a_webhook_id() -> None:
    _, headers = signed("{}", None)
    assert headers["webhook-id"] == "evt_12_wh_7"
    assert headers["X-Webhook-Id"] == "7"
    assert headers["X-Webhook-Event"] == "ticket.created"
    assert not {"X-Webhook-Signature", "webhook-signature"} & headers.keys()


@pytest.mark.parametrize(
    ("payload", "body"),
    [
        ('{"b": 1, "a": 2}', b'{"a": 2, "b": 1}'),
        ('{"a": 100.50}', b'{"a": 100.5}'),
        ('{"a": "\u0434"}', b'{"a": "\\u0434"}'),
        ('{"a": 9007199254740993}', b'{"a": 9007199254740993}'),
        ('{"a": 1e999}', b'{"a": "1e999"}'),
        (f'{{"a": {"1" * 5000}}}', b'{"a": "' + b"1" * 5000 + b'"}'),
        ('{"a": 0.1000000000000000055511151231257827}', b'{"a": 0.1}'),
    ],
)
def test_body_equals_its_reserialised_json(payload: str, body: bytes) -> None:
    assert canonical_body(payload) == body
    assert json.dumps(json.loads(body), sort_keys=True).encode() == body


@pytest.mark.parametrize("event_type", ["a\r\nEvil: 1", "a\n", "a\0", "a ", "тикет", ""])
def test_event_type_cannot_inject_a_header(event_type: str) -> None:
    with pytest.raises(ValueError, match="a header cannot contain"):
        signing.headers(
            body=b"{}", event_type=event_type, webhook_id=1, message="m", timestamp=1, secret=None
        )
