"""Creating and updating a webhook take one statement, so no other change can interfere."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bridge.access.vault import Vault
from bridge.webhooks.model import NewWebhook, WebhookChanges
from bridge.webhooks.operations import Webhooks

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROW: Mapping[str, Any] = {
    "id": 7,
    "name": "crm",
    "url": "https://crm.example/hook",
    "event_type": "*",
    "is_active": True,
    "timeout_seconds": 15,
    "max_concurrency": 4,
    "ordered": False,
    "created_at": NOW,
    "updated_at": NOW,
    "failure_count": 0,
    "success_count": 0,
    **dict.fromkeys(["description", "disabled_reason", "filter", "rate_per_second"]),
    **dict.fromkeys(["retry_schedule", "paused_at", "failing_since", "probe_at"]),
    "last_triggered_at": None,
}


class OneStatement:
    """Runs one query, after which the connection is lost."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    async def fetch(self, name: str, *_values: object) -> Sequence[Mapping[str, Any]]:
        self.ran.append(name)
        if len(self.ran) > 1:
            raise ConnectionError
        return [ROW]


async def test_create_returns_the_secret_from_one_statement() -> None:
    queries = OneStatement()
    webhook = NewWebhook(
        name="crm", url="https://crm.example/hook", event_type="*", generate_secret=True
    )
    created = await Webhooks(queries, Vault([])).create(webhook)
    assert (queries.ran, created.id) == (["create_webhook"], 7)
    assert created.secret


async def test_update_returns_the_webhook_from_one_statement() -> None:
    queries = OneStatement()
    changed = await Webhooks(queries, Vault([])).update(7, WebhookChanges(name="crm"))
    assert (queries.ran, changed.name) == (["update_webhook"], "crm")
