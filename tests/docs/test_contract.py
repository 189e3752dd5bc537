"""A dashboard and a receiver written for the contract work with a running bridge.

docs/contract.md lists every sentence of the contract with its test; many are in other files.
"""

import hashlib
import hmac
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from bridge.demo.postgres import EmbeddedPostgres
from bridge.settings import load_settings
from tests.receiver import answer, hang, receiving
from tests.system.processes import environment, pgbridge
from tests.waiting import PATIENCE_SECONDS

#: A static token with every character that has a meaning in a URL.
TOKEN = "a+b/c=d&e%2Bf?g#h~"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
ORIGIN = "https://admin.example"
SECRET = "your-secret"
EVENTS = (
    "user.created",
    "payment.completed",
    "transaction.created",
    "ticket.created",
    "ticket.status_changed",
    "ticket.message_added",
)
#: The fields that the dashboard reads.
WEBHOOK = {
    "id": int,
    "name": str,
    "url": str,
    "event_type": str,
    "is_active": bool,
    "description": (str, type(None)),
    "created_at": str,
    "updated_at": str,
    "last_triggered_at": (str, type(None)),
    "failure_count": int,
    "success_count": int,
}
DELIVERY = {
    "id": int,
    "webhook_id": int,
    "event_type": str,
    "payload": dict,
    "response_status": (int, type(None)),
    "response_body": (str, type(None)),
    "status": str,
    "error_message": (str, type(None)),
    "attempt_number": int,
    "created_at": str,
    "delivered_at": (str, type(None)),
    "next_retry_at": (str, type(None)),
}
#: The counts in the statistics, beside the rate.
COUNTS = (
    "total_webhooks",
    "active_webhooks",
    "total_deliveries",
    "successful_deliveries",
    "failed_deliveries",
)
#: The document's example of a user, and the statement that creates it.
USER = {
    "telegram_id": 456789,
    "username": "testuser",
    "first_name": "Test",
    "last_name": "User",
    "referral_code": "refABC123",
    "referred_by_id": None,
}
SIGN_UP = (
    "insert into public.users (auth_type, telegram_id, username, first_name, last_name,"
    " referral_code) values ('telegram', 456789, 'testuser', 'Test', 'User', 'refABC123')"
)


@dataclass(frozen=True)
class Served:
    """A running bridge and its database."""

    port: int
    database_url: str

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def execute(self, statement: str) -> None:
        """Run a statement as the application."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(statement.encode())


@pytest.fixture(scope="module")
def served(server: EmbeddedPostgres, bridge_template: str) -> Iterator[Served]:
    """Run one bridge for all tests of this module, on its own database."""
    with psycopg.connect(server.url(), autocommit=True) as operator:
        operator.execute(f"create database contract template {bridge_template}".encode())
        url = server.url("contract")
        settings = {"port": 0, "token": TOKEN, "cors_origins": ORIGIN, "poll_seconds": 0.2}
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "bridge", "run"],
                env=environment(url, **settings),
                cwd=tempfile.gettempdir(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            assert process.stdout is not None
            late = threading.Timer(60, process.kill)
            late.start()
            try:
                port = re.search(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
                late.cancel()
                assert port is not None, "the bridge did not start"
                yield Served(int(port[1]), url)
            finally:
                late.cancel()
                process.kill()
                process.wait()
                process.stdout.close()
        operator.execute(b"drop database contract with (force)")


@pytest.fixture
def bridge(served: Served) -> Served:
    """The bridge, after removing all webhooks and users."""
    # REST retries a deletion that deadlocks with a courier.
    with httpx.Client(
        base_url=served.rest_url, headers=AUTH, trust_env=False, timeout=PATIENCE_SECONDS
    ) as client:
        for webhook in client.get("/webhooks", params={"limit": 200}).json()["items"]:
            assert client.delete(f"/webhooks/{webhook['id']}").status_code == 204
    served.execute("truncate public.users cascade")
    return served


@pytest.fixture
async def http(bridge: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client of REST, as a dashboard is."""
    async with httpx.AsyncClient(
        base_url=bridge.rest_url, headers=AUTH, trust_env=False, timeout=PATIENCE_SECONDS
    ) as client:
        yield client


@asynccontextmanager
async def stream(
    bridge: Served, query: str, headers: Sequence[tuple[bytes, bytes]] = ()
) -> AsyncIterator[WebSocketConnection]:
    """Connect to ``/ws``."""
    with trio.fail_after(PATIENCE_SECONDS):
        async with (
            await trio.open_tcp_stream("127.0.0.1", bridge.port) as connection,
            trio.open_nursery() as nursery,
        ):
            yield await wrap_client_stream(
                nursery, connection, "127.0.0.1", f"/ws{query}", extra_headers=list(headers)
            )
            nursery.cancel_scope.cancel()


async def said(client: WebSocketConnection) -> dict[str, Any]:
    """Return the next message."""
    parsed: dict[str, Any] = json.loads(await client.get_message())
    return parsed


def has_shape(thing: dict[str, Any], shape: dict[str, Any]) -> None:
    """Check the fields that a dashboard reads, and their types."""
    for name, types in shape.items():
        assert isinstance(thing[name], types), (name, thing.get(name))
        if name.endswith("_at") and thing[name] is not None:
            assert datetime.fromisoformat(thing[name]).tzinfo is not None
    assert "secret" not in thing


async def create(http: httpx.AsyncClient, **form: object) -> dict[str, Any]:
    """Create a webhook as the dashboard's form does."""
    created = await http.post("/webhooks", json={"name": "n", "event_type": "user.created", **form})
    assert created.status_code == 201, created.text
    webhook: dict[str, Any] = created.json()
    return webhook


# The stream


@pytest.fixture(scope="module")
def made_token(served: Served) -> str:
    """Create a token with ``pgbridge token create``, which may only read events."""
    made = pgbridge("token", "create", "--name", "dashboard", url=served.database_url)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@pytest.mark.parametrize("way", ["token", "api_key", "bearer", "x-api-key", "message"])
@pytest.mark.parametrize("which", ["made", "static"])
async def test_every_way_to_send_a_token_is_welcomed(
    bridge: Served, made_token: str, way: str, which: str
) -> None:
    token = made_token if which == "made" else TOKEN
    query, headers = {
        "token": (f"?token={quote(token, safe='')}", []),
        "api_key": (f"?api_key={quote(token, safe='')}", []),
        "bearer": ("", [(b"Authorization", f"Bearer {token}".encode())]),
        "x-api-key": ("", [(b"X-API-Key", token.encode())]),
        "message": ("", []),
    }[way]
    async with stream(bridge, query, headers) as client:
        if way == "message":
            await client.send_message(json.dumps({"type": "auth", "token": token}))
        welcome = await said(client)
        assert welcome.pop("last_event_id") >= 0
        assert welcome == {
            "type": "connection",
            "status": "connected",
            "message": "WebSocket connection established",
        }


async def test_ping_is_answered_with_a_pong_only(bridge: Served) -> None:
    async with stream(bridge, "", [(b"X-API-Key", TOKEN.encode())]) as client:
        await said(client)
        for ping in '{\n  "type": "ping"\n}', '{"type":"ping"}', '{"type":"ping","at":1}':
            await client.send_message(ping)
            assert await said(client) == {"type": "pong"}


def test_default_idle_limit_allows_the_documented_pings() -> None:
    settings = load_settings(database_url="postgresql://")
    assert settings.ws_idle_seconds is None
    assert settings.ws_origins == ()


async def test_reconnecting_dashboard_is_welcomed_each_time(bridge: Served) -> None:
    for _ in range(20):
        async with stream(bridge, "", [(b"X-API-Key", TOKEN.encode())]) as client:
            assert (await said(client))["status"] == "connected"


async def test_handshake_through_a_reverse_proxy_is_accepted(bridge: Served) -> None:
    request = (
        f"GET /ws?token={quote(TOKEN, safe='')} HTTP/1.1\r\n"
        "upgrade: websocket\r\n"
        "connection: upgrade\r\n"
        "host: bot.example\r\n"
        "x-real-ip: 203.0.113.7\r\n"
        "x-forwarded-for: 203.0.113.7\r\n"
        "x-forwarded-proto: https\r\n"
        "user-agent: Mozilla/5.0\r\n"
        f"origin: {ORIGIN}\r\n"
        "cookie: session=of-the-bot\r\n"
        "sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n"
        "sec-websocket-version: 13\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "\r\n"
    )
    with trio.fail_after(PATIENCE_SECONDS):
        async with await trio.open_tcp_stream("127.0.0.1", bridge.port) as connection:
            await connection.send_all(request.encode())
            received = b""
            while b"established" not in received:
                more = await connection.receive_some()
                assert more, received
                received += more
    assert received.startswith(b"HTTP/1.1 101 ")
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in received


async def test_user_event_arrives_as_documented(bridge: Served, http: httpx.AsyncClient) -> None:
    async with (
        receiving() as receiver,
        stream(bridge, "", [(b"X-API-Key", TOKEN.encode())]) as client,
    ):
        await said(client)
        webhook = await create(http, url=receiver.url("/hook"), secret=SECRET)
        bridge.execute(SIGN_UP)
        event = await said(client)
        await receiver.until(lambda: bool(receiver.at("/hook")))
    assert list(event)[:3] == ["type", "payload", "timestamp"]
    assert event["type"] == "user.created"
    user_id = event["payload"].pop("user_id")
    assert isinstance(user_id, int)
    assert event["payload"] == USER
    # Dashboards that expect no zone parse the beginning of the text.
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$", event["timestamp"])
    [request] = receiver.at("/hook")
    assert json.loads(request.body) == {"user_id": user_id, **USER}
    headers = {name.lower(): value for name, value in request.headers.items()}
    assert headers["content-type"] == "application/json"
    assert headers["x-webhook-event"] == "user.created"
    assert headers["x-webhook-id"] == str(webhook["id"])
    assert verify_webhook_signature(
        json.loads(request.body), headers["x-webhook-signature"], SECRET
    )
    assert not verify_webhook_signature(
        {**USER, "user_id": user_id + 1}, headers["x-webhook-signature"], SECRET
    )


def verify_webhook_signature(payload: dict[str, Any], signature_header: str, secret: str) -> bool:
    """Verify like the document's example, with the payload serialised again."""
    payload_json = json.dumps(payload, sort_keys=True)
    expected_signature = hmac.new(
        secret.encode("utf-8"), payload_json.encode("utf-8"), hashlib.sha256
    ).hexdigest()

    received_signature = signature_header.replace("sha256=", "")
    return hmac.compare_digest(expected_signature, received_signature)


@pytest.mark.parametrize("event_type", EVENTS)
async def test_all_six_events_reach_stream_and_webhooks(
    bridge: Served, http: httpx.AsyncClient, event_type: str
) -> None:
    webhook = await create(http, url="http://127.0.0.1:9/", event_type=event_type, is_active=False)
    assert webhook["event_type"] == event_type
    listed = (await http.get("/webhooks", params={"event_type": event_type})).json()
    assert [item["id"] for item in listed["items"]] == [webhook["id"]]
    async with stream(bridge, "", [(b"X-API-Key", TOKEN.encode())]) as client:
        await said(client)
        await client.send_message(json.dumps({"type": "subscribe", "events": [event_type]}))
        assert await said(client) == {"type": "subscribed", "events": [event_type]}


# Webhooks


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"]
)
async def test_documented_request_creates_a_webhook(
    http: httpx.AsyncClient, content_type: str
) -> None:
    form = {
        "name": "My Webhook",
        "url": "https://example.com/webhook",
        "event_type": "user.created",
        "secret": "optional-secret-for-signing",
        "description": "Webhook для новых пользователей",
    }
    created = await http.post(
        "/webhooks",
        content=json.dumps(form, ensure_ascii=False, indent=2).encode(),
        headers={"Content-Type": content_type},
    )
    assert created.status_code == 201
    assert created.headers["Content-Type"] == "application/json"
    webhook = created.json()
    has_shape(webhook, WEBHOOK)
    del form["secret"]
    assert {**webhook, **form} == webhook
    assert (webhook["is_active"], webhook["last_triggered_at"]) == (True, None)
    assert "optional-secret-for-signing" not in created.text


async def test_same_webhook_may_be_created_twice(http: httpx.AsyncClient) -> None:
    form = {"url": "https://example.com/webhook"}
    first, second = await create(http, **form), await create(http, **form)
    listed = await http.get("/webhooks?event_type=user.created&is_active=true&limit=50&offset=0")
    assert set(listed.json()) == {"items", "total", "limit", "offset"}
    assert [item["id"] for item in listed.json()["items"]] == [second["id"], first["id"]]
    for item in listed.json()["items"]:
        has_shape(item, WEBHOOK)


async def test_empty_secret_means_none_or_unchanged(
    bridge: Served, http: httpx.AsyncClient
) -> None:
    async with receiving() as receiver:

        async def signature(path: str) -> str | None:
            """Insert a user and return the signature of the request."""
            before = len(receiver.at(path))
            bridge.execute("insert into public.users (auth_type) values ('email')")
            with trio.fail_after(PATIENCE_SECONDS):
                await receiver.until(lambda: len(receiver.at(path)) > before)
            request = receiver.at(path)[-1]
            headers = {name.lower(): value for name, value in request.headers.items()}
            assert headers["x-webhook-event"] == "user.created"
            signed = headers.get("x-webhook-signature")
            assert signed is None or verify_webhook_signature(
                json.loads(request.body), signed, SECRET
            )
            return signed

        empty = await create(
            http, url=receiver.url("/empty"), secret="", description="", is_active=True, id=7
        )
        assert empty["description"] is None
        assert await signature("/empty") is None

        webhook = await create(http, url=receiver.url("/kept"), secret=SECRET, description="d")
        assert await signature("/kept") is not None
        shown = (await http.get(f"/webhooks/{webhook['id']}")).json()
        form = {**shown, "secret": "", "name": "Edited"}
        edited = await http.patch(f"/webhooks/{webhook['id']}", json=form)
        assert (edited.status_code, edited.json()["name"]) == (200, "Edited")
        has_shape(edited.json(), WEBHOOK)
        assert await signature("/kept") is not None, "the secret must be unchanged"
        removed = await http.patch(f"/webhooks/{webhook['id']}", json={**form, "secret": None})
        assert removed.status_code == 200
        assert await signature("/kept") is None


async def test_documented_patch_and_delete_work(http: httpx.AsyncClient) -> None:
    path = f"/webhooks/{(await create(http, url='https://example.com/webhook'))['id']}"
    changed = await http.patch(path, json={"name": "Updated Name", "is_active": False})
    assert changed.status_code == 200
    assert (changed.json()["name"], changed.json()["is_active"]) == ("Updated Name", False)
    deleted = await http.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert deleted.headers.get("Content-Length", "0") == "0"
    assert (await http.get(path)).status_code == 404


async def test_errors_have_the_documented_body(http: httpx.AsyncClient) -> None:
    for method, suffix in ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/deliveries"):
        body: dict[str, Any] | None = {} if method == "PATCH" else None
        missing = await http.request(method, f"/webhooks/999999{suffix}", json=body)
        assert (missing.status_code, missing.json()) == (404, {"detail": "Webhook not found"})
    for headers, detail in (
        ({"Authorization": ""}, "Missing API key"),
        ({"Authorization": "Bearer wrong"}, "Invalid or expired API key"),
        ({"Authorization": "", "X-API-Key": "wrong"}, "Invalid or expired API key"),
    ):
        refused = await http.get("/webhooks", headers=headers)
        assert (refused.status_code, refused.json()) == (401, {"detail": detail})
    allowed = await http.get("/webhooks", headers={"Authorization": "", "X-API-Key": TOKEN})
    assert allowed.status_code == 200
    invalid = await http.post("/webhooks", json={"name": "n", "url": "no url"})
    assert invalid.status_code == 422
    assert [each["loc"] for each in invalid.json()["detail"]] == [
        ["body", "url"],
        ["body", "event_type"],
    ]
    for each in invalid.json()["detail"]:
        assert isinstance(each["msg"], str)
        assert isinstance(each["type"], str)


async def test_rest_ignores_a_token_in_the_url(http: httpx.AsyncClient) -> None:
    for name in "token", "api_key":
        refused = await http.get("/webhooks", params={name: TOKEN}, headers={"Authorization": ""})
        assert (refused.status_code, refused.json()) == (401, {"detail": "Missing API key"})


async def test_deliveries_and_statistics_are_as_documented(
    bridge: Served, http: httpx.AsyncClient
) -> None:
    async def statistics() -> dict[str, Any]:
        stats: dict[str, Any] = (await http.get("/webhooks/stats")).json()
        assert set(stats) == {*COUNTS, "success_rate"}
        return stats

    async def finished() -> int:
        now = await statistics()
        return sum(now[name] - before[name] for name in COUNTS[3:])

    before = await statistics()
    async with receiving() as receiver:
        receiver.behaviours |= {
            "/success": answer("204 No Content", b""),
            "/failed": answer("500 Internal Server Error", b"sorry"),
            "/pending": hang,
        }
        webhooks = {
            path: await create(http, url=receiver.url(path), retry_schedule=[0], secret=SECRET)
            for path in receiver.behaviours
        }
        bridge.execute(SIGN_UP)
        with trio.fail_after(PATIENCE_SECONDS):
            await receiver.until(lambda: len(receiver.requests) == 3)
            while await finished() < 2:  # noqa: ASYNC110 - nothing announces it
                await trio.sleep(0.01)
        for path, webhook in webhooks.items():
            status = path.removeprefix("/")
            listed = await http.get(
                f"/webhooks/{webhook['id']}/deliveries?status={status}&limit=50&offset=0"
            )
            page = listed.json()
            assert (page["total"], page["limit"], page["offset"]) == (1, 50, 0)
            [delivery] = page["items"]
            has_shape(delivery, DELIVERY)
            assert delivery["status"] == status
            assert delivery["webhook_id"] == webhook["id"]
            assert delivery["event_type"] == "user.created"
            assert {**delivery["payload"], **USER} == delivery["payload"]
            for other in {"success", "failed", "pending"} - {status}:
                none = await http.get(f"/webhooks/{webhook['id']}/deliveries?status={other}")
                assert (none.json()["items"], none.json()["total"]) == ([], 0)
            now = (await http.get(f"/webhooks/{webhook['id']}")).json()
            has_shape(now, WEBHOOK)
            assert (now["success_count"], now["failure_count"]) == (
                int(status == "success"),
                int(status == "failed"),
            )
            if status == "success":
                assert (delivery["response_status"], delivery["error_message"]) == (204, None)
                assert delivery["delivered_at"] is not None
                assert now["last_triggered_at"] is not None
            if status == "failed":
                assert (delivery["response_status"], delivery["response_body"]) == (500, "sorry")
                assert (delivery["delivered_at"], delivery["attempt_number"]) == (None, 1)
                assert delivery["error_message"]
        after = await statistics()
        assert {name: after[name] - before[name] for name in COUNTS} == {
            "total_webhooks": 3,
            "active_webhooks": 3,
            "total_deliveries": 3,
            "successful_deliveries": 1,
            "failed_deliveries": 1,
        }
        rate = 100 * after["successful_deliveries"] / after["total_deliveries"]
        assert after["success_rate"] == round(rate, 2)


# The way there


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/webhooks", 200),
        ("POST", "/webhooks", 201),
        ("DELETE", "/webhooks/{}", 204),
        ("GET", "/webhooks/999999", 404),
        ("POST", "/webhooks/stats", 405),
        ("POST", "/webhooks", 413),
        ("PATCH", "/webhooks/{}", 422),
    ],
)
async def test_allowed_origin_may_read_every_response(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    webhook = await create(http, url="https://example.com/webhook")
    bodies: dict[int, Callable[[], Any]] = {
        201: lambda: {"name": "n", "url": "https://example.com/", "event_type": "*"},
        413: lambda: {"name": "n" * 2_000_000},
        422: lambda: {"name": ""},
    }
    target = path.format(webhook["id"])
    asked = await http.options(
        target,
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization,content-type,x-api-key",
        },
    )
    assert asked.status_code == 200
    assert asked.headers["Access-Control-Allow-Origin"] in (ORIGIN, "*")
    assert method in asked.headers["Access-Control-Allow-Methods"]
    body = bodies[status]() if status in bodies else None
    answered = await http.request(method, target, json=body, headers={"Origin": ORIGIN})
    assert answered.status_code == status
    assert answered.headers["Access-Control-Allow-Origin"] in (ORIGIN, "*")


async def test_rest_accepts_http_1_0(bridge: Served) -> None:
    # The default of nginx.
    request = (
        "GET /webhooks?limit=1 HTTP/1.0\r\n"
        "Host: bot.example\r\n"
        "Connection: close\r\n"
        "X-Forwarded-For: 203.0.113.7\r\n"
        f"X-API-Key: {TOKEN}\r\n"
        "\r\n"
    )
    with trio.fail_after(PATIENCE_SECONDS):
        async with await trio.open_tcp_stream("127.0.0.1", bridge.port) as connection:
            await connection.send_all(request.encode())
            received = b"".join([part async for part in connection])
    head, _, body = received.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0] + b" "
    assert json.loads(body) == {"items": [], "total": 0, "limit": 1, "offset": 0}
