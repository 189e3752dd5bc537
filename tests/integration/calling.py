"""Call the REST API on a test's database, without a server, and add rows for it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg

from bridge.access.authenticator import Authenticator
from bridge.access.throttle import Throttle
from bridge.access.tokens import hash_token
from bridge.access.vault import Vault
from bridge.bot.tokens import BotTokens, BotTokenTable
from bridge.database.pool import open_database
from bridge.web.app import build_api

#: The static token.
TOKEN = "static-token"
FORM = {"name": "Shop", "url": "https://example.com/webhook", "event_type": "user.created"}
NOT_FOUND = {"detail": "Webhook not found"}
NOW = datetime.now(UTC).isoformat()
#: The fields of a webhook.
SHAPE = {
    "id",
    "name",
    "url",
    "event_type",
    "is_active",
    "description",
    "created_at",
    "updated_at",
    "last_triggered_at",
    "failure_count",
    "success_count",
    "disabled_reason",
    "timeout_seconds",
    "max_concurrency",
    "filter",
    "rate_per_second",
    "ordered",
    "retry_schedule",
    "paused_at",
    "failing_since",
    "probe_at",
}
MAX_BIGINT = 2**63 - 1

Bot = psycopg.Connection[tuple[Any, ...]]
#: Methods and paths that need a scope of webhooks or events.
PROTECTED = [
    ("GET", "/webhooks"),
    ("POST", "/webhooks"),
    ("GET", "/webhooks/stats"),
    ("GET", "/webhooks/1"),
    ("PATCH", "/webhooks/1"),
    ("DELETE", "/webhooks/1"),
    ("POST", "/webhooks/1/rotate-secret"),
    ("POST", "/webhooks/1/test"),
    ("GET", "/webhooks/1/deliveries"),
    ("GET", "/webhooks/1/health"),
    ("POST", "/webhooks/1/pause"),
    ("POST", "/webhooks/1/resume"),
    ("POST", "/webhooks/1/redeliver"),
    ("GET", "/webhooks/1/redelivery"),
    ("POST", "/webhooks/1/redelivery/cancel"),
    ("GET", "/deliveries/1"),
    ("POST", "/deliveries/1/redeliver"),
    ("GET", "/dead-letters"),
    ("GET", "/dead-letters/1"),
    ("POST", "/dead-letters/1/retry"),
    ("DELETE", "/dead-letters/1"),
    ("GET", "/events"),
]
#: Methods and paths that need another scope.
MANAGED = [
    ("POST", "/ws/tickets"),
    ("GET", "/tokens"),
    ("POST", "/tokens"),
    ("DELETE", "/tokens/1"),
    ("GET", "/audit"),
]
#: Headers of a browser's preflight request.
PREFLIGHT = {
    "Origin": "https://admin.example",
    "Access-Control-Request-Method": "PATCH",
    "Access-Control-Request-Headers": "authorization, x-api-key, content-type",
}


async def no_url_is_refused(_url: str) -> None:
    """Accept every URL."""


@asynccontextmanager
async def calling(
    url: str,
    *,
    token: str | None = TOKEN,
    bot_tokens: BotTokens | None = None,
    failures: Throttle | None = None,
    address: str = "127.0.0.1",
    **options: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """Build the API on this database; yield a client that sends the token.

    Args:
        address: the client's.
        options: those of ``build_api``.
    """
    options.setdefault("troubles", dict)
    options.setdefault("vault", Vault())
    options.setdefault("url_refusal", no_url_is_refused)
    options.setdefault("send_trial", None)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with open_database(url) as database:
        bot = None if bot_tokens is None else BotTokenTable(database, bot_tokens)
        store = Authenticator(database, TOKEN, bot=bot, failures=failures)
        transport = httpx.ASGITransport(
            app=build_api(database, store, **options), client=(address, 4711)
        )
        async with httpx.AsyncClient(
            transport=transport, base_url="http://bridge", headers=headers
        ) as client:
            yield client


def add_token(
    bot: Bot, token: str, *scopes: str, expires: str = "null", revoked: str = "null"
) -> int:
    """Add a token, and return its id.

    Args:
        expires, revoked: SQL expressions.
    """
    [(token_id,)] = bot.execute(
        f"""insert into bridge.api_tokens (name, token_hash, prefix, scopes, expires_at, revoked_at)
            values ('t', %s, 'pgb_', %s, {expires}, {revoked}) returning id""".encode(),
        [hash_token(token), list(scopes)],
    ).fetchall()
    assert isinstance(token_id, int)
    return token_id


async def create(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Create a webhook through the API and return it."""
    answer = await client.post("/webhooks", json={**FORM, **fields})
    assert answer.status_code == 201, answer.text
    webhook: dict[str, Any] = answer.json()
    return webhook


def add_event(bot: Bot, payload: object = None) -> tuple[int, datetime]:
    row = bot.execute(
        """insert into bridge.events (event_type, payload, occurred_at)
           values ('user.created', %s, now()) returning id, recorded_at""",
        [json.dumps(payload)],
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def add_pending(bot: Bot, webhook_id: int, *, attempts: int = 0) -> int:
    """Queue a delivery; return its id."""
    event_id, recorded_at = add_event(bot, {"user_id": 1})
    row = bot.execute(
        """insert into bridge.delivery_queue
               (webhook_id, event_id, event_recorded_at, event_type, attempt_number, error_message)
           values (%s, %s, %s, 'user.created', %s, %s) returning id""",
        [webhook_id, event_id, recorded_at, attempts, "refused" if attempts else None],
    ).fetchone()
    assert row is not None
    return int(row[0])


def finish(bot: Bot, delivery_id: int, outcome: str) -> None:
    """Move a delivery from the queue to the log, as a courier does."""
    is_success = outcome == "success"
    bot.execute(
        """with gone as (delete from bridge.delivery_queue where id = %(id)s returning *),
           counted as (
               update bridge.webhooks w
               set delivered_count = delivered_count + %(delivered)s,
                   failed_count = failed_count + %(failed)s
               from gone where w.id = gone.webhook_id)
           insert into bridge.delivery_log
               (id, webhook_id, event_id, event_recorded_at, event_type, status, attempt_number,
                response_status, response_body, error_message, created_at)
           select id, webhook_id, event_id, event_recorded_at, event_type, %(outcome)s,
                  attempt_number + 1, %(response_status)s, 'answer', %(error)s, created_at
           from gone""",
        {
            "id": delivery_id,
            "outcome": outcome,
            "delivered": int(is_success),
            "failed": int(not is_success),
            "response_status": 200 if is_success else 500,
            "error": None if is_success else "HTTP 500",
        },
    )


def add_finished(bot: Bot, webhook_id: int, outcome: str) -> int:
    delivery_id = add_pending(bot, webhook_id)
    finish(bot, delivery_id, outcome)
    return delivery_id


def secrets_of(bot: Bot, webhook_id: int, vault: Vault | None = None) -> list[str | None]:
    """Return the secret and the previous secret, decrypted."""
    row = bot.execute(
        "select secret, previous_secret from bridge.webhooks where id = %s", [webhook_id]
    ).fetchone()
    assert row is not None
    return [stored and (vault or Vault()).open(stored) for stored in row]


def assert_refused(answer: httpx.Response, field: str) -> None:
    """Assert a 422 in FastAPI's shape that names the field."""
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["detail"]
    assert set(error) == {"type", "loc", "msg"}
    assert error["loc"][-1] == field


def moment(text: str) -> datetime:
    """Parse a timestamp, which must have a zone."""
    parsed = datetime.fromisoformat(text)
    assert parsed.tzinfo is not None
    return parsed


def secret_of(bot: Bot, webhook_id: int) -> object:
    """Return a webhook's stored secret."""
    row = bot.execute("select secret from bridge.webhooks where id = %s", [webhook_id]).fetchone()
    assert row is not None
    return row[0]
