"""The demo's receiver accepts only valid signatures."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from bridge.demo.receiver import (
    Receiver,
    contract_signature_matches,
    standard_signature_matches,
)

PLAIN = "a plain secret, with ключом"
WHSEC = "whsec_" + base64.b64encode(b"twenty-four random bytes").decode()
PAYLOAD = {"user_id": 1, "first_name": 'Аня "О\'Нил" 🌸\n', "amount_rubles": 100.5}


def signed(secret: str, message_id: str = "msg_1", payload: Any = PAYLOAD) -> dict[str, Any]:
    """Return the keyword arguments of a valid request."""
    body = json.dumps(payload, sort_keys=True)
    key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
    timestamp = str(int(time.time()))
    standard = hmac.new(key, f"{message_id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    contract = hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()
    return {
        "content": body.encode(),
        "headers": {
            "X-Webhook-Event": "user.created",
            "X-Webhook-Signature": f"sha256={contract}",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{base64.b64encode(standard).decode()}",
        },
    }


class Visitor:
    """Posts to a receiver without a network, and records what it verified."""

    def __init__(self, *, moody: bool = False) -> None:
        self.verified: list[tuple[str, str, str, dict[str, Any]]] = []
        self.receiver = Receiver(
            {"plain": PLAIN, "whsec": WHSEC}, lambda *delivery: self.verified.append(delivery)
        )
        self.receiver.moody = moody

    async def post(self, name: str, request: dict[str, Any]) -> int:
        transport = httpx.ASGITransport(app=self.receiver.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
            return (await client.post(f"/{name}", **request)).status_code


@pytest.mark.parametrize(("name", "secret"), [("plain", PLAIN), ("whsec", WHSEC)])
async def test_delivery_with_both_signatures_is_verified(name: str, secret: str) -> None:
    visitor = Visitor()
    assert await visitor.post(name, signed(secret)) == 200
    assert visitor.verified == [(name, "msg_1", "user.created", PAYLOAD)]
    assert visitor.receiver.forged == 0


@pytest.mark.parametrize(
    "header", ["X-Webhook-Signature", "webhook-signature", "webhook-id", "webhook-timestamp"]
)
@pytest.mark.parametrize("value", [None, "", "1", "sha256=00", "v1,AAAA", "ключ".encode()])
async def test_delivery_with_an_invalid_header_is_rejected(header: str, value: object) -> None:
    visitor = Visitor()
    request = signed(PLAIN)
    del request["headers"][header]
    if value is not None:
        request["headers"][header] = value
    assert await visitor.post("plain", request) == 401
    assert visitor.verified == []
    assert visitor.receiver.forged == 1


async def test_secret_of_another_endpoint_is_rejected() -> None:
    visitor = Visitor()
    assert await visitor.post("plain", signed(WHSEC)) == 401
    assert await visitor.post("nowhere", signed(WHSEC)) == 404
    assert await visitor.post("plain", {"content": b"{"}) == 400


async def test_changed_body_is_rejected() -> None:
    visitor = Visitor()
    request = signed(PLAIN)
    request["content"] = request["content"].replace(b"100.5", b"1005")
    assert await visitor.post("plain", request) == 401


async def test_rejected_delivery_is_accepted_on_retry() -> None:
    visitor = Visitor(moody=True)
    turned_away = []
    for number in range(300):
        request = signed(PLAIN, f"msg_{number}")
        if await visitor.post("plain", request) == 503:
            turned_away.append(request)
    assert 1 <= len(turned_away) <= 40
    assert len(visitor.verified) == 300 - len(turned_away)
    for request in turned_away:
        assert await visitor.post("plain", request) == 200
    assert len(visitor.verified) == 300
    assert visitor.receiver.turned_away == visitor.receiver.came_back == len(turned_away)


def test_old_delivery_is_rejected_as_a_replay() -> None:
    headers = {key.lower(): value for key, value in signed(PLAIN)["headers"].items()}
    headers["webhook-timestamp"] = str(int(time.time()) - 600)
    assert not standard_signature_matches(headers, signed(PLAIN)["content"], PLAIN)


def test_standard_webhooks_library_agrees() -> None:
    request = signed(WHSEC)
    headers = {key.lower(): value for key, value in request["headers"].items()}
    Webhook(WHSEC).verify(request["content"], headers)
    assert standard_signature_matches(headers, request["content"], WHSEC)
    headers["webhook-signature"] = f"v1,AAAA {headers['webhook-signature']}"
    assert standard_signature_matches(headers, request["content"], WHSEC)


def test_contract_signature_covers_the_reserialized_payload() -> None:
    payload = {"b": "é🌸", "a": [1, 2.50, None]}
    body = json.dumps(payload, sort_keys=True)
    signature = hmac.new(PLAIN.encode(), body.encode(), hashlib.sha256).hexdigest()
    assert contract_signature_matches(payload, f"sha256={signature}", PLAIN)
    assert not contract_signature_matches({**payload, "c": 1}, f"sha256={signature}", PLAIN)
