"""The demo's webhooks: create them through REST, and notice when a user changes them."""

import base64
import secrets
from typing import Any, Final

import httpx

#: Names of the webhooks and the event types that they subscribe to.
PATTERNS: Final = {"everything": "*", "payments": "payment.completed"}


class WebhookError(Exception):
    """The bridge rejected a webhook."""


class Webhooks:
    """The webhooks of one demo.

    Args:
        token: a token that may create webhooks.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._created: list[dict[str, Any]] = []
        #: The secret of each webhook, by name.
        self.secrets = {
            "everything": secrets.token_urlsafe(24),
            "payments": "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode(),
        }

    async def create(self, bridge_url: str, receiver_url: str) -> None:
        """Create the webhooks.

        Raises:
            WebhookError: the bridge rejected one.
        """
        async with self._client(bridge_url) as client:
            for name, pattern in PATTERNS.items():
                answer = await client.post(
                    "/webhooks",
                    json={
                        "name": f"Demo: {name}",
                        "url": f"{receiver_url}/{name}",
                        "event_type": pattern,
                        "secret": self.secrets[name],
                        "description": "The demo's own receiver",
                    },
                )
                if answer.status_code != 201:
                    raise WebhookError(
                        f"POST /webhooks returned {answer.status_code}: {answer.text[:300]}"
                    )
                self._created.append(answer.json())

    async def interference(self, bridge_url: str) -> list[str]:
        """Return what a user has done to the webhooks that keeps deliveries from arriving."""
        found = []
        async with self._client(bridge_url) as client:
            for webhook in self._created:
                answer = await client.get(f"/webhooks/{webhook['id']}")
                if change := _change(webhook, answer):
                    found.append(f"the webhook {webhook['name']!r} {change}")
        return found

    def _client(self, bridge_url: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=bridge_url, headers={"X-API-Key": self._token}, trust_env=False
        )


def _change(created: dict[str, Any], answer: httpx.Response) -> str | None:
    if answer.status_code == 404:
        return "was deleted"
    if answer.status_code != 200:
        return None
    now = answer.json()
    if not now["is_active"]:
        return "is disabled"
    if now["paused_at"] is not None:
        return "is paused"
    for field in ("url", "event_type", "filter", "rate_per_second", "retry_schedule"):
        if now[field] != created[field]:
            return f"has a new {field}"
    return None
