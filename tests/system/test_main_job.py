"""The main job: commits of the bot arrive at a dashboard and, signed, at a receiver."""

import hashlib
import hmac
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest
import trio
from fastapi import FastAPI, HTTPException, Request
from standardwebhooks import Webhook
from trio_websocket import ConnectionClosed

from tests.asgi import serving_app
from tests.receiver import Request as Received
from tests.receiver import answer, receiving
from tests.system.processes import TOKEN, Bridge, listening, pgbridge, running
from tests.waiting import PATIENCE_SECONDS

WEBHOOK_SECRET = "your-secret"
AUTH = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class ContractReceiver:
    """The contract document's receiver and its calls."""

    url: str = ""
    verified: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    requests: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)

    async def until_count(self, count: int) -> None:
        while len(self.verified) < count:
            await self.changed.wait()


@asynccontextmanager
async def contract_receiver() -> AsyncIterator[ContractReceiver]:
    """Run the FastAPI receiver from the contract document."""
    receiver = ContractReceiver()
    app = FastAPI()

    @app.post("/webhook")
    async def webhook(request: Request) -> dict[str, str]:
        receiver.requests.append((await request.body(), dict(request.headers)))
        signature = request.headers.get("X-Webhook-Signature", "")
        event_type = request.headers.get("X-Webhook-Event")
        payload = await request.json()

        if not verify_signature(payload, signature, WEBHOOK_SECRET):
            raise HTTPException(status_code=401, detail="Invalid signature")

        receiver.verified.append((str(event_type), payload))
        receiver.changed.set()
        receiver.changed = trio.Event()
        return {"status": "ok"}

    def verify_signature(payload: object, signature: str, secret: str) -> bool:
        payload_json = json.dumps(payload, sort_keys=True)
        expected = hmac.new(secret.encode(), payload_json.encode(), hashlib.sha256).hexdigest()
        return hmac.compare_digest(expected, signature.replace("sha256=", ""))

    async with serving_app(app) as address:
        receiver.url = f"{address}/webhook"
        yield receiver


async def create_webhook(bridge: Bridge, url: str, event_type: str = "*") -> int:
    """Create a webhook as a dashboard does, and return its ID."""
    async with httpx.AsyncClient(trust_env=False) as http:
        created = await http.post(
            f"{bridge.rest_url}/webhooks",
            headers=AUTH,
            json={"name": "n", "url": url, "event_type": event_type, "secret": WEBHOOK_SECRET},
        )
    assert created.status_code == 201
    return int(created.json()["id"])


# The bot's statements and the events of each transaction.
STORY: list[tuple[str, list[tuple[str, dict[str, Any]]]]] = [
    (
        "insert into users (telegram_id, auth_type, username, first_name, last_name, status,"
        " language, balance_kopeks, referral_code, created_at, updated_at) values (456789,"
        " 'telegram', 'ivan', 'Иван 🎉', 'O''Brien \"Ё\"', 'active', 'ru', 0, 'refABC123', now(),"
        " now())",
        [
            (
                "user.created",
                {
                    "user_id": 1,
                    "telegram_id": 456789,
                    "username": "ivan",
                    "first_name": "Иван 🎉",
                    "last_name": 'O\'Brien "Ё"',
                    "referral_code": "refABC123",
                    "referred_by_id": None,
                },
            )
        ],
    ),
    (
        "insert into transactions (user_id, type, amount_kopeks, description, payment_method,"
        " external_id, is_completed, created_at) values (1, 'deposit', 10050, 'Пополнение',"
        " 'yookassa', 'ext-1', false, now())",
        [
            (
                "transaction.created",
                {
                    "transaction_id": 1,
                    "user_id": 1,
                    "type": "deposit",
                    "amount_kopeks": 10050,
                    "amount_rubles": 100.5,
                    "payment_method": "yookassa",
                    "external_id": "ext-1",
                    "is_completed": False,
                    "description": "Пополнение",
                },
            )
        ],
    ),
    (
        "update transactions set is_completed = true, completed_at = now() where id = 1;"
        " update users set balance_kopeks = balance_kopeks + 10050 where id = 1",
        [
            (
                "payment.completed",
                {
                    "transaction_id": 1,
                    "user_id": 1,
                    "type": "deposit",
                    "amount_kopeks": 10050,
                    "amount_rubles": 100.5,
                    "payment_method": "yookassa",
                    "external_id": "ext-1",
                    "is_completed": True,
                    "description": "Пополнение",
                },
            )
        ],
    ),
    (
        "insert into transactions (user_id, type, amount_kopeks, is_completed, created_at)"
        " values (1, 'subscription_payment', -19900, true, now())",
        [
            (
                "transaction.created",
                {
                    "transaction_id": 2,
                    "user_id": 1,
                    "type": "subscription_payment",
                    "amount_kopeks": 19900,
                    "amount_rubles": 199,
                    "payment_method": None,
                    "external_id": None,
                    "is_completed": True,
                    "description": None,
                },
            )
        ],
    ),
    (
        "insert into tickets (user_id, title, status, priority, user_reply_block_permanent,"
        " created_at) values (1, 'Не работает', 'open', 'high', false, now());"
        " insert into ticket_messages (ticket_id, user_id, message_text, is_from_admin, has_media,"
        " created_at) values (1, 1, 'Помогите', false, true, now())",
        [
            (
                "ticket.created",
                {
                    "ticket_id": 1,
                    "user_id": 1,
                    "title": "Не работает",
                    "status": "open",
                    "priority": "high",
                    "has_media": True,
                },
            )
        ],
    ),
    (
        "insert into ticket_messages (ticket_id, user_id, message_text, is_from_admin, has_media,"
        " created_at) values (1, 1, repeat('🎉', 300), true, false, now());"
        " update tickets set status = 'answered', updated_at = now() where id = 1",
        [
            (
                "ticket.status_changed",
                {
                    "ticket_id": 1,
                    "user_id": 1,
                    "old_status": "open",
                    "new_status": "answered",
                    "closed_at": None,
                },
            ),
            (
                "ticket.message_added",
                {
                    "ticket_id": 1,
                    "message_id": 2,
                    "user_id": 1,
                    "is_from_admin": True,
                    "message_text": "🎉" * 200,
                    "has_media": False,
                    "status": "answered",
                },
            ),
        ],
    ),
    (
        "update tickets set status = 'closed', closed_at = '2024-01-15 10:30:00.5+00' where id = 1",
        [
            (
                "ticket.status_changed",
                {
                    "ticket_id": 1,
                    "user_id": 1,
                    "old_status": "answered",
                    "new_status": "closed",
                    "closed_at": "2024-01-15T10:30:00.5+00:00",
                },
            )
        ],
    ),
]


async def test_bot_statements_arrive_with_the_contracts_payloads(
    bot_url: str,
) -> None:
    installed = await trio.to_thread.run_sync(lambda: pgbridge("init", url=bot_url))
    assert installed.returncode == 0, installed.stderr
    expected = [event for _, events in STORY for event in events]
    with trio.fail_after(PATIENCE_SECONDS):
        async with (
            contract_receiver() as receiver,
            running(bot_url) as bridge,
            listening(bridge) as dashboard,
        ):
            await create_webhook(bridge, receiver.url)
            with psycopg.connect(bot_url) as bot:
                bot.execute("set timezone = 'Asia/Vladivostok'")
                bot.commit()
                for statements, _ in STORY:
                    bot.execute(statements.encode())
                    bot.commit()
                bot.execute("insert into users (auth_type) values ('email')")
                bot.rollback()
            streamed = [json.loads(await dashboard.get_message()) for _ in expected]
            await receiver.until_count(len(expected))
            assert [(event["type"], event["payload"]) for event in streamed] == expected
            assert [event["id"] for event in streamed] == list(range(1, len(expected) + 1))
            key = json.dumps
            assert sorted(receiver.verified, key=key) == sorted(expected, key=key)
            for body, headers in receiver.requests:
                Webhook(WEBHOOK_SECRET.encode()).verify(body, headers)
            assert await bridge.terminate() == 0


async def test_sigterm_stops_in_ten_seconds_without_loss(bridge_url: str) -> None:
    async def hang(_request: Received, _stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    with trio.fail_after(PATIENCE_SECONDS):
        async with receiving() as receiver:
            receiver.behaviours["/hangs"] = hang
            async with running(bridge_url) as bridge, listening(bridge) as dashboard:
                await create_webhook(bridge, receiver.url("/hangs"))
                await create_webhook(bridge, receiver.url("/answers"))
                with psycopg.connect(bridge_url, autocommit=True) as bot:
                    for _ in range(10):
                        bot.execute("insert into users (auth_type) values ('telegram')")
                    await receiver.until(lambda: len(receiver.at("/answers")) == 10)
                    await receiver.until(lambda: len(receiver.at("/hangs")) == 4)
                    assert await bridge.terminate() == 0
                    assert bot.execute(
                        "select count(*), count(leased_until) from bridge.delivery_queue"
                    ).fetchone() == (10, 0), "what hangs is given back, not held"
                for _ in range(10):
                    await dashboard.get_message()
                with pytest.raises(ConnectionClosed) as closed:
                    await dashboard.get_message()
                assert closed.value.reason is not None
                assert closed.value.reason.code == 1001
            # The next bridge continues where this one stopped.
            receiver.behaviours["/hangs"] = answer()
            async with running(bridge_url):
                await receiver.until(lambda: len(receiver.at("/hangs")) == 4 + 10)
    identities = [request.headers["webhook-id"] for request in receiver.at("/hangs")]
    assert len(set(identities)) == 10


async def test_interrupt_stops_like_sigterm(bridge_url: str) -> None:
    async with running(bridge_url) as bridge:
        bridge.process.send_signal(signal.SIGINT)
        assert await bridge.process.wait() == 0
        assert "Traceback" not in await trio.Path(bridge.log).read_text()
