"""The demo's webhooks: create them through REST, and notice when a user changes them."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx

from bridge.access.vault import new_secret

#: Names of the webhooks and the event types that they subscribe to.
PATTERNS: Final = {"everything": "*", "payments": "payment.completed"}


def new_secrets() -> dict[str, str]:
    """Return a secret for each webhook: plain text, and one as Standard Webhooks writes it."""
    return {"everything": secrets.token_urlsafe(24), "payments": new_secret()}


async def create_webhooks(
    api: httpx.AsyncClient, receiver_url: str, secret_of: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Create the webhooks and return them.

    Raises:
        httpx.HTTPError: the bridge rejected one.
    """
    created = []
    for name, pattern in PATTERNS.items():
        webhook = {
            "name": f"Demo: {name}",
            "url": f"{receiver_url}/{name}",
            "event_type": pattern,
            "secret": secret_of[name],
            "description": "The demo's own receiver",
        }
        answer = await api.post("/webhooks", json=webhook)
        created.append(answer.raise_for_status().json())
    return created


async def interference(api: httpx.AsyncClient, webhooks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a user has done to the webhooks that keeps deliveries from arriving."""
    found = []
    for webhook in webhooks:
        answer = await api.get(f"/webhooks/{webhook['id']}")
        if change := _change(webhook, answer):
            found.append(f"the webhook {webhook['name']!r} {change}")
    return found


def _change(created: Mapping[str, Any], answer: httpx.Response) -> str | None:
    if answer.status_code == 404:
        return "was deleted"
    now = answer.raise_for_status().json()
    if not now["is_active"]:
        return "is disabled"
    if now["paused_at"] is not None:
        return "is paused"
    for field in ("url", "event_type", "filter", "rate_per_second", "retry_schedule"):
        if now[field] != created[field]:
            return f"has a new {field}"
    return None
