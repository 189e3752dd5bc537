"""A webhook receiver: the contract's own example, which also checks Standard Webhooks."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import trio
from fastapi import FastAPI, HTTPException, Request

from bridge.web.http.front import Front

#: One in this many deliveries is rejected at its first attempt, to demonstrate retries.
TURNED_AWAY_ONE_IN = 30
# Standard Webhooks: a request with another time may be a replay.
_TOLERANCE_SECONDS = 300

#: Called with the webhook's name, webhook-id, event type and payload of each verified delivery.
OnVerified = Callable[[str, str, str, dict[str, Any]], None]


def contract_signature_matches(payload: object, signature_header: str, secret: str) -> bool:
    """Verify ``X-Webhook-Signature`` as the contract document's receiver does."""
    payload_json = json.dumps(payload, sort_keys=True)
    expected = hmac.new(
        secret.encode("utf-8"), payload_json.encode("utf-8"), hashlib.sha256
    ).hexdigest()
    received = signature_header.replace("sha256=", "")
    return hmac.compare_digest(expected.encode(), received.encode())


def standard_signature_matches(headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    """Verify ``webhook-signature`` as Standard Webhooks 1.0 requires."""
    try:
        message_id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
        signatures = headers["webhook-signature"].split()
        if abs(time.time() - int(timestamp)) > _TOLERANCE_SECONDS:
            return False
    except (KeyError, ValueError):
        return False
    if secret.startswith("whsec_"):
        key = base64.b64decode(secret.removeprefix("whsec_"))
    else:
        key = secret.encode("utf-8")
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    expected = f"v1,{digest}".encode()
    return any(hmac.compare_digest(expected, signature.encode()) for signature in signatures)


class Receiver:
    """Several endpoints, each with its own secret, on one port of 127.0.0.1."""

    def __init__(self, secrets: Mapping[str, str], on_verified: OnVerified) -> None:
        #: While true, one delivery in thirty gets 503 at its first attempt.
        self.moody = True
        #: Deliveries that got 503, and those of them that were retried.
        self.turned_away = 0
        self.came_back = 0
        #: Requests rejected for an invalid signature.
        self.forged = 0
        self._secrets = secrets
        self._on_verified = on_verified
        self._rng = Random(503)
        self._waited_for: set[tuple[str, str]] = set()

    def app(self) -> FastAPI:
        """Return the ASGI application: ``POST /{webhook name}``."""
        app = FastAPI(openapi_url=None)
        app.post("/{name}")(self._take)
        return app

    async def _take(self, name: str, request: Request) -> dict[str, str]:
        headers, body = request.headers, await request.body()
        secret = self._secrets.get(name)
        if secret is None:
            raise HTTPException(status_code=404, detail="No such webhook")
        try:
            payload = json.loads(body)
        except ValueError:
            raise HTTPException(status_code=400, detail="Not JSON") from None
        contract = contract_signature_matches(
            payload, headers.get("x-webhook-signature", ""), secret
        )
        if not contract or not standard_signature_matches(headers, body, secret):
            self.forged += 1
            raise HTTPException(status_code=401, detail="Invalid signature")
        webhook_id = headers["webhook-id"]
        delivery = name, webhook_id
        if delivery in self._waited_for:
            self._waited_for.remove(delivery)
            self.came_back += 1
        elif self.moody and self._rng.randrange(TURNED_AWAY_ONE_IN) == 0:
            self._waited_for.add(delivery)
            self.turned_away += 1
            raise HTTPException(status_code=503, detail="Busy, come again")
        self._on_verified(name, webhook_id, headers.get("x-webhook-event", ""), payload)
        return {"status": "ok"}

    async def serve(self, *, task_status: trio.TaskStatus[str]) -> None:
        """Serve until cancelled; the task's start value is the base URL."""
        front = Front(self.app(), handshake_seconds=5.0)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        async with trio.open_nursery() as connections:
            await front.accept(listeners, connections)
