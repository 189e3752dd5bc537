"""REST as a whole: tokens, bodies, readiness, CORS, the OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

import httpx
import psycopg
import pytest
import trio
import trio.testing

from bridge.web.http.bodies import AUTHENTICATED
from tests.integration.calling import (
    FORM,
    MANAGED,
    NOW,
    PREFLIGHT,
    PROTECTED,
    SHAPE,
    TOKEN,
    Bot,
    add_token,
    assert_refused,
    calling,
    create,
)
from tests.waiting import until_true

NOT_AN_OBJECT = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"NaN",
    b"\xff\xfe\xff",
    b'{"name": "\xff"}',
    b"[" * 60_000,
    b'{"timeout_seconds": ' + b"9" * 5000 + b"}",
    b"\0",
]


async def test_body_must_be_a_json_object(bridge_url: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with calling(bridge_url) as client:
        webhook = await create(client)
        for body in NOT_AN_OBJECT:
            for method, path in ("POST", "/webhooks"), ("PATCH", f"/webhooks/{webhook['id']}"):
                answer = await client.request(method, path, content=body, headers=headers)
                assert answer.status_code == 422, answer.text
                assert all(each["loc"][0] == "body" for each in answer.json()["detail"])


async def test_number_beyond_float_is_rejected(bridge_url: str) -> None:
    body = json.dumps(FORM)[:-1] + ', "timeout_seconds": 1e999}'
    async with calling(bridge_url) as client:
        headers = {"Content-Type": "application/json"}
        answer = await client.post("/webhooks", content=body, headers=headers)
        assert_refused(answer, "timeout_seconds")


async def test_form_encoded_body_is_rejected(bridge_url: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with calling(bridge_url) as client:
        answer = await client.post("/webhooks", content="name=a", headers=headers)
        assert answer.status_code == 422


async def test_endless_body_is_cut_off(bridge_url: str) -> None:
    class Endless(httpx.AsyncByteStream):
        size = 0

        def __aiter__(self) -> Endless:
            return self

        async def __anext__(self) -> bytes:
            self.size += 60_000
            return b" " * 60_000

    body = Endless()
    async with calling(bridge_url) as client:
        headers = {**client.headers, "Content-Type": "application/json"}
        answer = await client.send(
            httpx.Request("POST", "http://bridge/webhooks", headers=headers, stream=body)
        )
        assert answer.status_code == 413
        assert answer.json() == {"detail": "Request body too large"}
        assert body.size <= AUTHENTICATED.most_bytes + 60_000


async def test_body_of_maximum_size_is_read(bridge_url: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with calling(bridge_url) as client:
        body = json.dumps(FORM).encode().ljust(AUTHENTICATED.most_bytes)
        answer = await client.post("/webhooks", content=body, headers=headers)
        assert answer.status_code == 201


SCOPES = {("GET", "/events"): "events:read"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic eDp5"},
        {"X-API-Key": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": TOKEN},
    ],
)
async def test_request_without_a_token_is_rejected(
    bridge_url: str, headers: dict[str, str]
) -> None:
    async with calling(bridge_url, token=None) as client:
        for method, path in PROTECTED + MANAGED:
            answer = await client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()) == (401, {"detail": "Missing API key"})
            assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_body_without_a_token_is_not_read(bridge_url: str) -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    headers = {"Content-Type": "application/json"}
    async with calling(bridge_url, token=None) as client:
        for method, path in PROTECTED + MANAGED:
            answer = await client.request(method, path, content=unread(), headers=headers)
            assert answer.status_code == 401


async def test_invalid_token_is_rejected(bridge_url: str, bot: Bot) -> None:
    add_token(bot, "expired", "admin", expires="now() - interval '1 second'")
    add_token(bot, "revoked", "admin", revoked="now()")
    async with calling(bridge_url, token=None) as client:
        for token in "unknown", "expired", "revoked", TOKEN + "x", "x" * 5000:
            for headers in {"Authorization": f"Bearer {token}"}, {"X-API-Key": token}:
                for method, path in PROTECTED + MANAGED:
                    answer = await client.request(method, path, headers=headers)
                    assert answer.status_code == 401
                    assert answer.json() == {"detail": "Invalid or expired API key"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer {TOKEN}"},
        {"X-API-Key": TOKEN},
        {"X-API-Key": TOKEN, "Authorization": "Basic eDp5"},
        {"X-API-Key": TOKEN, "Authorization": "Bearer of-the-proxy"},
    ],
)
async def test_token_is_accepted_in_either_header(bridge_url: str, headers: dict[str, str]) -> None:
    async with calling(bridge_url, token=None) as client:
        assert (await client.get("/webhooks", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (["events:read"], {"events:read"}),
        (["webhooks:read"], {"webhooks:read"}),
        (["webhooks:write"], {"webhooks:read", "webhooks:write"}),
        (["admin"], {"events:read", "webhooks:read", "webhooks:write"}),
        (["events:read", "webhooks:read"], {"events:read", "webhooks:read"}),
    ],
)
async def test_scopes_decide_what_a_token_may_do(
    bridge_url: str, bot: Bot, scopes: list[str], allowed: set[str]
) -> None:
    add_token(bot, "token", *scopes, expires="now() + interval '1 hour'")
    async with calling(bridge_url, token="token") as client:
        for method, path in PROTECTED:
            answer = await client.request(method, path)
            by_method = "webhooks:read" if method == "GET" else "webhooks:write"
            scope = SCOPES.get((method, path), by_method)
            assert (answer.status_code != 403) is (scope in allowed), (method, path)
            if scope not in allowed:
                assert answer.json() == {"detail": f"This API key does not have the scope {scope}"}


async def test_healthz_and_docs_need_no_token(bridge_url: str) -> None:
    async with calling(bridge_url, token=None) as client:
        answer = await client.get("/healthz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert (await client.get("/docs")).status_code == 200
        assert (await client.get("/openapi.json")).status_code == 200


@pytest.mark.parametrize(
    ("troubles", "code", "answered"),
    [
        ({}, 200, {"status": "ready", "checks": {}, "reasons": {}}),
        (
            {"drain": None, "listen": None},
            200,
            {"status": "ready", "checks": {"drain": True, "listen": True}, "reasons": {}},
        ),
        (
            {"drain": None, "listen": "nothing is heard"},
            503,
            {
                "status": "not ready",
                "checks": {"drain": True, "listen": False},
                "reasons": {"listen": "nothing is heard"},
            },
        ),
    ],
    ids=["no parts", "all well", "one not"],
)
async def test_readyz_combines_all_checks(
    bridge_url: str, troubles: Mapping[str, str | None], code: int, answered: object
) -> None:
    async with calling(bridge_url, token=None, troubles=lambda: troubles) as client:
        answer = await client.get("/readyz")
        assert answer.status_code == code
        assert answer.json() == answered


async def test_readyz_is_current(bridge_url: str) -> None:
    troubles: dict[str, str | None] = {"drain": "it does not"}
    async with calling(bridge_url, troubles=lambda: troubles) as client:
        assert (await client.get("/readyz")).status_code == 503
        troubles["drain"] = None
        assert (await client.get("/readyz")).status_code == 200


@contextmanager
def away(url: str) -> Iterator[None]:
    """Make a database unavailable: end its sessions and reject new ones."""
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    elsewhere = psycopg.conninfo.make_conninfo(url, dbname="postgres")
    with psycopg.connect(elsewhere, autocommit=True) as operator:

        def run(sql: str) -> None:
            operator.execute(sql.encode())

        run(f"alter database {name} with allow_connections false")
        run(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity "
            f"where datname = '{name}'"
        )
        run(f"alter database {name} rename to {name}_away")
        try:
            yield
        finally:
            run(f"alter database {name}_away rename to {name}")
            run(f"alter database {name} with allow_connections true")


#: Valid bodies.
BODIES = {
    ("POST", "/webhooks"): FORM,
    ("PATCH", "/webhooks/1"): FORM,
    ("POST", "/webhooks/1/redeliver"): {"since": NOW},
}


async def test_unavailable_database_is_answered_with_503(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        with away(bridge_url):
            # Wait until the pool has noticed.
            await trio.testing.wait_all_tasks_blocked(0.1)
            for method, path in PROTECTED:
                body = BODIES.get((method, path))
                for headers in {}, {"X-API-Key": "a-token-to-look-up"}:
                    answer = await client.request(method, path, headers=headers, json=body)
                    assert answer.status_code == 503
                    assert answer.json() == {"detail": "Database unavailable"}
            assert (await client.get("/healthz")).status_code == 200
        assert (await client.get(f"/webhooks/{webhook['id']}")).json() == webhook


async def test_requests_of_one_token_do_not_hold_up_those_of_another(
    bridge_url: str, bot: Bot
) -> None:
    add_token(bot, "flood", "webhooks:write", expires="now() + interval '1 hour'")
    answered: list[int] = []
    async with calling(bridge_url) as client, trio.open_nursery() as nursery:
        path = f"/webhooks/{(await create(client))['id']}"

        async def change() -> None:
            answer = await client.patch(path, json={"name": "x"}, headers={"X-API-Key": "flood"})
            answered.append(answer.status_code)

        with bot.transaction():
            bot.execute("select from bridge.webhooks for update")
            for _ in range(10):
                nursery.start_soon(change)
            await until_true(bot, "count(*) > 1 from pg_locks where not granted")
            assert (await client.get(path)).status_code == 200
            assert answered == []
    assert answered == [200] * 10


async def test_allowed_origin_may_call(bridge_url: str) -> None:
    origins = ["https://admin.example"]
    async with calling(bridge_url, cors_origins=origins, token=None) as client:
        allowed = await client.options("/webhooks/1", headers=PREFLIGHT)
        assert allowed.status_code == 200
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://admin.example"
        methods = allowed.headers["Access-Control-Allow-Methods"]
        assert {"GET", "POST", "PATCH", "DELETE"} <= set(methods.split(", "))
        headers = allowed.headers["Access-Control-Allow-Headers"].lower().split(", ")
        assert {"authorization", "x-api-key", "content-type"} <= set(headers)
        # Without the header, the browser would hide the response from the dashboard.
        refused = await client.get("/webhooks", headers={"Origin": "https://admin.example"})
        assert refused.status_code == 401
        assert refused.headers["Access-Control-Allow-Origin"] == "https://admin.example"
        stranger = await client.options(
            "/webhooks/1", headers={**PREFLIGHT, "Origin": "https://evil.example"}
        )
        assert stranger.status_code == 400
        assert "Access-Control-Allow-Origin" not in stranger.headers


async def test_cors_is_off_without_origins(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        assert (await client.options("/webhooks/1", headers=PREFLIGHT)).status_code == 405
        answer = await client.get("/webhooks", headers={"Origin": "https://admin.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_openapi_document_lists_every_response(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        document = (await client.get("/openapi.json")).json()
    assert document["info"]["title"] == "pgbridge"
    assert document["components"]["securitySchemes"] == {
        "Bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A token from `pgbridge token create`.",
        },
        "ApiKey": {
            "type": "apiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "The same token.",
        },
    }
    answers = {
        (method.upper(), path): set(operation["responses"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    guarded = {"401", "403", "408", "422", "429", "500", "503"}
    with_body = guarded | {"413", "415"}
    assert answers == {
        ("GET", "/healthz"): {"200", "500"},
        ("GET", "/readyz"): {"200", "500", "503"},
        ("GET", "/metrics"): {"200", "500"},
        ("GET", "/events"): {"200"} | guarded,
        ("GET", "/webhooks"): {"200"} | guarded,
        ("POST", "/webhooks"): {"201", "409"} | with_body,
        ("GET", "/webhooks/stats"): {"200"} | guarded,
        ("GET", "/webhooks/{webhook_id}"): {"200", "404"} | guarded,
        ("PATCH", "/webhooks/{webhook_id}"): {"200", "404"} | with_body,
        ("DELETE", "/webhooks/{webhook_id}"): {"204", "404"} | guarded,
        ("GET", "/webhooks/{webhook_id}/deliveries"): {"200", "404"} | guarded,
        ("POST", "/webhooks/{webhook_id}/test"): {"200", "404"} | guarded,
        ("POST", "/webhooks/{webhook_id}/rotate-secret"): {"200", "404"} | with_body,
        ("GET", "/webhooks/{webhook_id}/health"): {"200", "404"} | guarded,
        ("POST", "/webhooks/{webhook_id}/pause"): {"200", "404"} | guarded,
        ("POST", "/webhooks/{webhook_id}/resume"): {"200", "404"} | guarded,
        ("POST", "/webhooks/{webhook_id}/redeliver"): {"200", "404", "409"} | with_body,
        ("GET", "/webhooks/{webhook_id}/redelivery"): {"200", "404"} | guarded,
        ("POST", "/webhooks/{webhook_id}/redelivery/cancel"): {"200", "404"} | guarded,
        ("GET", "/deliveries/{delivery_id}"): {"200", "404"} | guarded,
        ("POST", "/deliveries/{delivery_id}/redeliver"): {"202", "404", "409"} | guarded,
        ("GET", "/dead-letters"): {"200"} | guarded,
        ("GET", "/dead-letters/{dead_letter_id}"): {"200", "404"} | guarded,
        ("POST", "/dead-letters/{dead_letter_id}/retry"): {"204", "404", "409"} | guarded,
        ("DELETE", "/dead-letters/{dead_letter_id}"): {"204", "404"} | guarded,
        ("POST", "/ws/tickets"): {"201"} | guarded,
        ("GET", "/tokens"): {"200"} | guarded,
        ("POST", "/tokens"): {"201", "409"} | with_body,
        ("DELETE", "/tokens/{token_id}"): {"204", "404"} | guarded,
        ("GET", "/audit"): {"200"} | guarded,
    }
    for method, path in PROTECTED:
        path = path.replace("deliveries/1", "deliveries/{delivery_id}")
        path = path.replace("dead-letters/1", "dead-letters/{dead_letter_id}")
        path = path.replace("1", "{webhook_id}")
        security = document["paths"][path][method.lower()]["security"]
        assert security == [{"Bearer": []}, {"ApiKey": []}]
    for path in "/healthz", "/readyz":
        assert "security" not in document["paths"][path]["get"]
    (webhook_id,) = document["paths"]["/webhooks/{webhook_id}"]["get"]["parameters"]
    assert webhook_id["schema"]["type"] == "integer"


async def test_openapi_operations_and_schemas_are_described(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        document = (await client.get("/openapi.json")).json()
    operations = [
        operation for operations in document["paths"].values() for operation in operations.values()
    ]
    tags = {tag["name"] for tag in document["tags"]}
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    for operation in operations:
        assert operation["description"]
        assert operation["summary"] != operation["operationId"].replace("_", " ").title()
        assert set(operation["tags"]) <= tags
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (operation["operationId"], parameter["name"])
        responses = operation["responses"]
        for status, answer in responses.items():
            assert ("Retry-After" in answer.get("headers", {})) is (
                status == "429" or (status == "503" and "401" in responses)
            )
            assert ("WWW-Authenticate" in answer.get("headers", {})) is (status == "401")
    schemas = document["components"]["schemas"]
    for name in "NewWebhook", "WebhookChanges", "SecretRotation", "Redelivery":
        assert schemas[name]["examples"]
    assert schemas["Webhook"]["properties"]["id"]["format"] == "int64"
    assert schemas["Webhook"]["properties"]["url"]["format"] == "uri"
    assert schemas["Webhook"]["properties"]["created_at"]["format"] == "date-time"
    assert {"type": "null"} in schemas["Webhook"]["properties"]["paused_at"]["anyOf"]
    assert set(schemas["Webhook"]["properties"]) == SHAPE
    assert set(schemas["ValidationError"]["required"]) == {"loc", "msg", "type"}
    assert "secret" in schemas["NewWebhook"]["properties"]
