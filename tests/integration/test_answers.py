"""Responses of the API: headers, errors, paths and methods."""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import psycopg
import pytest
import structlog
import trio

from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.web.api.docs import PAGE, POLICY
from bridge.web.http.middleware import SECURITY_HEADERS, UnhandledErrors
from tests.integration.calling import (
    FORM,
    NOT_FOUND,
    PREFLIGHT,
    PROTECTED,
    TOKEN,
    Bot,
    add_finished,
    calling,
    create,
)

ORIGIN = "https://admin.example"


def failing(error: Exception) -> Callable[[], Mapping[str, str | None]]:
    """Return a readiness check that fails, for ``GET /readyz``."""

    def troubles() -> Mapping[str, str | None]:
        raise error

    return troubles


def refused_by_postgresql(sqlstate: str) -> DatabaseError:
    """Return an error of PostgreSQL that quotes a row."""
    error = DatabaseError.new(
        {"C": sqlstate, "M": "permission denied for table webhooks", "D": "Failing row: s3cret"}
    )
    assert isinstance(error, DatabaseError)
    assert "s3cret" in str(error)
    return error


# Headers


async def test_every_response_has_the_security_headers(bridge_url: str, bot: Bot) -> None:
    parts: dict[str, Any] = {"troubles": failing(RuntimeError()), "cors_origins": [ORIGIN]}
    async with calling(bridge_url, **parts) as client:
        webhook = await create(client)
        delivery = add_finished(bot, webhook["id"], "failed")
        path = f"/webhooks/{webhook['id']}"
        answers = [
            await client.get("/healthz"),
            await client.get("/openapi.json"),
            await client.get("/metrics"),
            await client.get(path),
            await client.get("/webhooks", headers={"Authorization": "Bearer wrong"}),
            await client.get("/nothing"),
            await client.put("/webhooks"),
            await client.post("/webhooks", content=b"x" * 1_100_000),
            await client.post("/webhooks", json=FORM, headers={"Content-Encoding": "gzip"}),
            await client.post("/webhooks", json={}),
            await client.post(f"/deliveries/{delivery}/redeliver"),
            await client.options("/webhooks", headers=PREFLIGHT),
            await client.options("/webhooks", headers={**PREFLIGHT, "Origin": "https://evil"}),
            await client.get("/readyz"),
            await client.delete(path),
        ]
        assert [answer.status_code for answer in answers] == [
            *(200, 200, 200, 200, 401, 404, 405, 413, 415, 422, 202, 200, 400, 500, 204)
        ]
        for answer in answers:
            sent = {name: answer.headers.get_list(name) for name in SECURITY_HEADERS}
            assert sent == {name: [value] for name, value in SECURITY_HEADERS.items()}
        assert SECURITY_HEADERS["Cache-Control"] == "no-store"
        assert SECURITY_HEADERS["X-Content-Type-Options"] == "nosniff"


async def test_docs_page_may_run_only_its_own_scripts(bridge_url: str) -> None:
    async with calling(bridge_url, token=None) as client:
        page = await client.get("/docs")
        assert (await client.get("/redoc")).status_code == 404
        assert (await client.get("/docs/oauth2-redirect")).status_code == 404
    assert page.text == PAGE
    assert page.headers["Content-Security-Policy"] == POLICY
    for name in SECURITY_HEADERS.keys() - {"Content-Security-Policy"}:
        assert page.headers[name] == SECURITY_HEADERS[name]
    directives = dict(part.split(" ", 1) for part in POLICY.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["connect-src"] == "'self'"
    assert directives["frame-ancestors"] == "'none'"
    (inline,) = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    tags = re.findall(r"<(?:script|link)[^>]*(?:src|href)=\"(https:[^\"]*)\"[^>]*>", PAGE)
    scripts = [url for url in tags if url.endswith(".js")]
    assert directives["script-src"].split() == [*scripts, f"'sha256-{digest}'"]
    # Files from the CDN are of one release, and checked.
    assert len(tags) == 2
    assert all(re.search(r"@\d+\.\d+\.\d+/", url) for url in tags)
    assert (
        len(re.findall(r'integrity="sha384-[A-Za-z0-9+/]{64}" crossorigin="anonymous"', PAGE)) == 2
    )
    # Inline event handlers would not run.
    assert not re.search(r"\son\w+=", PAGE)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), DatabaseUnavailable("away")])
async def test_errors_are_readable_across_origins(bridge_url: str, error: Exception) -> None:
    parts: dict[str, Any] = {"troubles": failing(error), "cors_origins": [ORIGIN]}
    async with calling(bridge_url, **parts) as client:
        client.headers["Origin"] = ORIGIN
        statuses = []
        for answer in (
            await client.get("/readyz"),
            await client.get("/webhooks", headers={"Authorization": ""}),
            await client.post("/webhooks", json={}),
            await client.get("/nothing"),
            await client.put("/webhooks"),
        ):
            statuses.append(answer.status_code)
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert answer.headers["Vary"] == "Origin"
            assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]
        failure = 500 if isinstance(error, RuntimeError) else 503
        assert statuses == [failure, 401, 422, 404, 405]


async def test_docs_page_finds_the_document_behind_any_prefix() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is missing")
    (inline,) = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)
    program = f"""
        let url;
        const link = {{}};
        globalThis.document = {{ querySelector: () => link }};
        globalThis.SwaggerUIBundle = (options) => {{ url = options.url; }};
        SwaggerUIBundle.presets = {{}};
        for (const pathname of ['/docs', '/docs/', '/behind/docs', '/behind/a/docs/']) {{
          globalThis.location = {{ pathname }};
          new Function({json.dumps(inline)})();
          console.log(url, link.href);
        }}"""
    ran = await trio.run_process([node, "-e", program], capture_stdout=True)
    assert ran.stdout.decode().splitlines() == [
        "/openapi.json /openapi.json",
        "/openapi.json /openapi.json",
        "/behind/openapi.json /behind/openapi.json",
        "/behind/a/openapi.json /behind/a/openapi.json",
    ]


def test_docs_page_explains_missing_scripts() -> None:
    # The scripts replace the content of this element.
    (shown,) = re.findall(r'<div id="swagger-ui">(.*?)</div>', PAGE, re.DOTALL)
    assert "cdn.jsdelivr.net" in shown
    assert '<a href="openapi.json">' in shown
    assert "cdn.jsdelivr.net" in POLICY


# Unexpected errors


async def test_error_after_the_response_began_is_logged_once() -> None:
    sent = []

    async def begins(_scope: object, _receive: object, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("s3" + "cret")

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> Any:
        raise AssertionError("the body is not read")

    with structlog.testing.capture_logs() as logged:
        await UnhandledErrors(begins)({"type": "http", "method": "GET", "path": "/"}, receive, send)
    assert sent == ["http.response.start"]
    (line,) = logged
    assert (line["event"], line["path"]) == ("request_failed", "/")
    assert "s3cret" not in str(line)


async def test_bug_is_answered_500_without_details_and_logged_once(bridge_url: str) -> None:
    for error in (
        RuntimeError("s3cret"),
        refused_by_postgresql("42501"),
        ExceptionGroup("g", [OSError()]),
    ):
        async with calling(bridge_url, troubles=failing(error)) as client:
            with structlog.testing.capture_logs() as logged:
                answer = await client.get("/readyz?token=s3cret")
        assert answer.status_code == 500
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json() == {"detail": "Internal Server Error"}
        (line,) = logged
        assert line["event"] == "request_failed"
        assert (line["method"], line["path"]) == ("GET", "/readyz")
        assert line["error"] == type(error).__name__
        assert "in readyz" in line["stack"]
        assert "s3cret" not in str(line)


async def test_transient_database_errors_get_503(bridge_url: str) -> None:
    for sqlstate, status in {
        "40P01": 503,  # deadlock
        "40001": 503,  # serialization failure
        "55P03": 503,  # lock not available
        "57014": 503,  # statement cancelled
        "53100": 503,  # disk full
        "42501": 500,  # insufficient privilege
        "42P01": 500,  # undefined table
        "23505": 500,  # unique violation
        "XX000": 500,
    }.items():
        async with calling(bridge_url, troubles=failing(refused_by_postgresql(sqlstate))) as client:
            answer = await client.get("/readyz")
        assert answer.status_code == status, sqlstate
        if status == 503:
            assert answer.json() == {"detail": "Database unavailable"}
            assert answer.headers["Retry-After"] == "1"
        else:
            assert answer.json() == {"detail": "Internal Server Error"}
            assert "Retry-After" not in answer.headers


async def test_missing_right_gets_500_without_sql(bridge_url: str, bot: Bot) -> None:
    """Also for statements with a filter, which may have invalid syntax."""
    bot.execute("create role without_rights login")
    bot.execute("grant usage on schema bridge to without_rights")
    try:
        url = httpx.URL(bridge_url).copy_with(username="without_rights")
        async with calling(str(url)) as client:
            for answer in (
                await client.get("/webhooks"),
                await client.get("/events"),
                await client.post("/webhooks", json={**FORM, "filter": "$.a == 1"}),
                await client.patch("/webhooks/1", json={"filter": "$.a == 1"}),
                await client.post("/webhooks/1/pause"),
                await client.delete("/webhooks/1"),
            ):
                assert answer.status_code == 500, answer.text
                assert answer.json() == {"detail": "Internal Server Error"}
    finally:
        bot.execute("drop owned by without_rights")
        bot.execute("drop role without_rights")


async def test_lock_timeout_gets_503(bridge_url: str, bot: Bot) -> None:
    name = psycopg.conninfo.conninfo_to_dict(bridge_url)["dbname"]
    bot.execute(f"alter database {name} set lock_timeout = '50ms'".encode())
    async with calling(bridge_url) as client:
        webhook = await create(client)
        with bot.transaction():
            bot.execute("lock table bridge.webhooks in access exclusive mode")
            answer = await client.patch(f"/webhooks/{webhook['id']}", json={"name": "n"})
            assert (answer.status_code, answer.json()) == (503, {"detail": "Database unavailable"})
        assert (await client.get(f"/webhooks/{webhook['id']}")).json() == webhook


# Paths and methods


async def test_unknown_paths_get_404_in_json(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        for path in (
            "/nothing",
            "/",
            "//webhooks",
            "/webhooks//",
            "/webhooks/1/nothing",
            "/WEBHOOKS",
            "/webhooks%0A",
            "/webhooks/1%0A",
            "/metrics%0A",
        ):
            answer = await client.get(f"http://bridge{path}")
            assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"}), path


async def test_unknown_methods_get_405_with_the_allowed_ones(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        document = (await client.get("/openapi.json")).json()
        for path, operations in document["paths"].items():
            has = {method.upper() for method in operations}
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - has:
                answer = await client.request(method, re.sub(r"\{\w+\}", "1", path))
                assert (answer.status_code, answer.json()) == (
                    405,
                    {"detail": "Method Not Allowed"},
                )
                assert set(answer.headers["Allow"].split(", ")) == has, (method, path)


async def test_head_is_answered_like_get_without_the_body(bridge_url: str) -> None:
    async with calling(bridge_url, troubles=lambda: {"relay": "it does not"}) as client:
        for path in ("/healthz", "/readyz", "/metrics", "/webhooks", "/webhooks/7", "/nothing"):
            got, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.content) == (got.status_code, b"")
            if path == "/metrics":  # whose length changes
                del got.headers["Content-Length"], head.headers["Content-Length"]
            assert head.headers == got.headers
        assert (await client.head("/readyz")).status_code == 503
        assert (await client.head("/tokens/1")).status_code == 405
        assert (await client.head("/webhooks", headers={"X-API-Key": "x"})).status_code == 401


async def test_trailing_slash_makes_no_difference(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        created = await client.post("/webhooks/", json=FORM)
        assert created.status_code == 201
        webhook = created.json()
        add_finished(bot, webhook["id"], "success")
        for path in (
            "/webhooks",
            "/webhooks/stats",
            f"/webhooks/{webhook['id']}",
            f"/webhooks/{webhook['id']}/deliveries?limit=1",
            "/events",
            "/healthz",
            "/docs",
            "/openapi.json",
        ):
            plain, _, query = path.partition("?")
            slash, without = await client.get(f"{plain}/?{query}"), await client.get(path)
            assert slash.status_code == without.status_code == 200
            assert slash.content == without.content
        assert (await client.delete(f"/webhooks/{webhook['id']}/")).status_code == 204


FORGED = [
    {"Host": "evil.example"},
    {"Host": "evil.example:99999/x?y"},
    {"Host": ""},
    {"X-Forwarded-Host": "evil.example"},
    {"X-Forwarded-Proto": "javascript"},
    {"X-Forwarded-Prefix": "/evil"},
    {"X-Original-URL": "/evil", "X-Rewrite-URL": "/evil"},
    {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9"},
    {"Forwarded": "host=evil.example;proto=https;for=203.0.113.9"},
    {"X-HTTP-Method-Override": "DELETE"},
]


async def test_forged_headers_change_nothing(bridge_url: str) -> None:
    async with calling(bridge_url, cors_origins=[ORIGIN]) as client:
        webhook = await create(client)

        async def answers(headers: dict[str, str]) -> list[object]:
            found: list[object] = []
            for method, path in (
                *PROTECTED,
                ("GET", "/webhooks/"),
                ("GET", "/nothing"),
                ("PUT", "/webhooks"),
                ("GET", "/docs"),
                ("GET", "/docs/"),
                ("GET", "/openapi.json"),
                ("GET", "/healthz"),
                ("OPTIONS", "/webhooks"),
            ):
                # Ids of no webhook, so that requests can be repeated.
                path = path.replace("1", "999")
                answer = await client.request(method, path, headers=headers)
                found.append((method, path, answer.status_code, answer.headers, answer.text))
            return found

        honest = await answers({})
        for forged in FORGED:
            assert await answers(forged) == honest, forged
        for forged in FORGED:
            created = await client.post("/webhooks", json=FORM, headers=forged)
            assert created.headers["Location"] == f"/webhooks/{created.json()['id']}"
            assert (await client.get(created.headers["Location"])).json() == created.json()
            assert "evil" not in created.text
        assert (await client.get(f"/webhooks/{webhook['id']}")).json() == webhook


async def test_deleted_webhook_gets_404_from_every_route(bridge_url: str) -> None:
    async with calling(bridge_url, token=TOKEN) as client:
        path = f"/webhooks/{(await create(client))['id']}"
        await client.delete(path)
        for method, suffix, body in (
            ("GET", "", None),
            ("PATCH", "", {"name": "n"}),
            ("GET", "/deliveries", None),
            ("GET", "/health", None),
            ("POST", "/rotate-secret", None),
            ("POST", "/pause", None),
            ("POST", "/resume", None),
            ("POST", "/test", None),
            ("POST", "/redeliver", {"since": "2026-01-01T00:00:00Z"}),
        ):
            answer = await client.request(method, path + suffix, json=body)
            assert (answer.status_code, answer.json()) == (404, NOT_FOUND), suffix
