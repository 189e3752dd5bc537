"""Webhook and token pages of the console in a browser."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Page, expect

from bridge.access.tokens import hash_token
from tests.browser.test_console import HOSTILE
from tests.browser.visits import (
    OpenPage,
    Photograph,
    Watch,
    looks_right,
    sign_in,
)

#: Markup, letters from right to left, and a word that no line has room for.
AWFUL = f"{HOSTILE}שלוםevil{'x' * 190}"
#: A response may also have a sign that turns the line around.
AWFUL_RESPONSE = f"\u202e{AWFUL}"


@contextmanager
def receiving(status: int, body: str) -> Iterator[str]:
    """Run a receiver that always gives the same response; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook"
        finally:
            server.shutdown()
            thread.join()


def test_life_of_a_webhook(page: Page, watch: Watch, photograph: Photograph) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    sign_in(page, path="/console/webhooks")
    expect(page.get_by_text("No webhooks yet")).to_be_visible()
    looks_right(page)
    photograph(page, "webhooks-empty")
    page.get_by_role("link", name="New webhook").click()

    # Rarely used fields are collapsed at first.
    expect(page.get_by_label("Secret", exact=True)).to_be_hidden()
    expect(page.get_by_label("Timeout, in seconds")).to_be_hidden()
    looks_right(page)
    photograph(page, "webhook-new")
    with receiving(500, AWFUL_RESPONSE) as url:
        page.get_by_label("Name").fill("crm")
        page.keyboard.press("Tab")
        page.keyboard.type("ticket.*")
        page.keyboard.press("Tab")
        page.keyboard.type(url)
        page.get_by_text("Filter, rate and retries").click()
        page.get_by_label("Filter", exact=True).fill("$.amount ==")
        page.keyboard.press("Tab")
        page.keyboard.type("0, 5, 300")
        page.keyboard.press("Enter")
        watch.expected("status of 422")
        wrong = page.get_by_label("Filter", exact=True)
        expect(wrong).to_be_focused()
        expect(wrong).to_have_attribute("aria-invalid", "true")
        expect(wrong).to_have_value("$.amount ==")
        expect(page.get_by_text("must be a jsonpath")).to_be_visible()
        looks_right(page)
        photograph(page, "webhook-wrong")
        wrong.fill("$.amount == 1")
        page.get_by_role("button", name="Create webhook").click()

        expect(page.get_by_text("It is not shown again")).to_be_visible()
        secret = page.locator("#secret").inner_text()
        assert secret.startswith("whsec_")
        page.get_by_role("button", name="Copy").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == secret
        looks_right(page)
        photograph(page, "webhook-secret")
        page.get_by_role("link", name="Go to the webhook").click()

        page.get_by_role("button", name="Send a test").click()
        expect(page.get_by_role("heading", name="The receiver rejected the test")).to_be_visible()
        expect(page.locator("pre.answer")).to_have_text(AWFUL_RESPONSE)
        expect(page.get_by_text("HTTP 500")).to_be_visible()
        expect(page).to_have_title("crm · pgbridge")
        looks_right(page)
        photograph(page, "webhook-test")

    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_contain_text("Paused.")
    expect(page.locator("#health .badge")).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#health .badge")).to_have_text("delivering")
    page.get_by_role("button", name="Disable").click()
    expect(page.locator("#health .badge")).to_have_text("off")
    page.get_by_role("button", name="Enable").click()
    expect(page.locator("#health .badge")).to_have_text("delivering")

    page.get_by_role("link", name="Edit").click()
    expect(page.get_by_label("Retry schedule, in seconds")).to_have_value("0, 5, 300")
    page.get_by_label("Name").fill("crm, renamed")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("crm, renamed")

    page.get_by_role("button", name="Rotate the secret").click()
    expect(page.get_by_text("also signed with the old secret")).to_be_visible()
    assert page.locator("#secret").inner_text() != secret
    page.get_by_role("link", name="Go to the webhook").click()
    page.get_by_role("link", name="Delete…").click()
    expect(page.get_by_text("Pending deliveries are dropped")).to_be_visible()
    looks_right(page)
    photograph(page, "webhook-delete")
    page.get_by_role("button", name="Delete permanently").click()
    expect(page.get_by_role("status")).to_have_text("The webhook was deleted.")
    expect(page.get_by_text("No webhooks yet")).to_be_visible()


def test_life_of_a_token(page: Page, watch: Watch, photograph: Photograph) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    sign_in(page, path="/console/tokens")
    page.get_by_role("link", name="New token").click()
    looks_right(page)
    photograph(page, "token-new")
    page.get_by_label("Name").fill(AWFUL[:250])
    page.get_by_role("button", name="Create token").click()
    watch.expected("status of 422")
    expect(page.get_by_role("group", name="Permissions")).to_contain_text("Select at least one")
    looks_right(page)
    page.get_by_label("webhooks:read").press("Space")
    page.get_by_label("Only events of these types").fill("ticket.*")
    page.get_by_label("Forever").check()
    page.get_by_role("button", name="Create token").click()
    expect(page.get_by_text("It is not shown again")).to_be_visible()
    token = page.locator("#token").inner_text()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == token
    looks_right(page)
    photograph(page, "token-made")
    page.get_by_role("link", name="Go to tokens").click()
    expect(page.get_by_role("row").last).to_contain_text("events:read:ticket.*")
    assert token not in page.content()
    looks_right(page)
    photograph(page, "tokens")
    page.get_by_role("link", name="Revoke…").click()
    looks_right(page)
    photograph(page, "token-revoke")
    page.get_by_role("button", name="Revoke permanently").click()
    expect(page.get_by_role("row").last).to_contain_text("revoked")
    expect(page).to_have_title("Tokens · pgbridge")


@pytest.fixture
def awful(bot: psycopg.Connection[Any]) -> int:
    """Add a webhook and a token with hostile texts; return the webhook's id."""
    row = bot.execute(
        """insert into bridge.webhooks (name, url, event_type, description, filter, is_active,
               disabled_reason, failed_count, retry_schedule, secret)
           values (%(a)s, %(url)s, %(long)s, %(a)s, to_jsonb(%(a)s::text)::text::jsonpath, false,
               %(a)s, 1, array_fill(86400::float8, array[100]), %(a)s)
           returning id""",
        {"a": AWFUL, "url": f"http://127.0.0.1/?{AWFUL}", "long": "x" * 255},
    ).fetchone()
    assert row is not None
    webhook = int(row[0])
    bot.execute(
        """with event as (
               insert into bridge.events (event_type, payload, occurred_at)
               values (%(long)s, to_jsonb(%(a)s::text), now()) returning id, recorded_at)
           insert into bridge.delivery_log
               (id, webhook_id, event_id, event_recorded_at, event_type, status, attempt_number,
                response_body, error_message, created_at)
           select 7, %(id)s, id, recorded_at, %(long)s, 'failed', 10, %(a)s, %(a)s, now()
           from event""",
        {"a": AWFUL, "long": "x" * 255, "id": webhook},
    )
    bot.execute(
        """insert into bridge.api_tokens (name, token_hash, prefix, scopes)
           values (%s, %s, %s, %s)""",
        [AWFUL, hash_token("t"), '"><b>pgb_', [f"events:read:{'x' * 240}", "admin"]],
    )
    return webhook


def test_hostile_text_breaks_no_page(
    open_page: OpenPage, awful: int, photograph: Photograph
) -> None:
    page = open_page(locale="ru-RU")
    page.goto("/console/webhooks")
    page.locator("#token").fill("the-token-of-the-tests")
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/webhooks")
    expect(page.get_by_role("heading", level=1)).to_have_text("Вебхуки")
    expect(page.get_by_role("row").last).to_contain_text(AWFUL)
    own = f"webhooks/{awful}"
    for path, name in (
        ("webhooks", "awful-webhooks"),
        (own, "awful-webhook"),
        (f"{own}/edit", "awful-edit"),
        (f"{own}/delete", "awful-delete"),
        ("tokens", "awful-tokens"),
        ("tokens/1/revoke", "awful-revoke"),
    ):
        page.goto(f"/console/{path}")
        assert page.title() != "pwned"
        looks_right(page)
        photograph(page, name)
    page.goto(f"/console/{own}")
    expect(page.get_by_role("heading", level=1)).to_have_text(AWFUL)
    expect(page.locator("#health")).to_contain_text(AWFUL)
    expect(page.locator("#newest")).to_contain_text(AWFUL)
    assert page.locator("main img, main script, main b").count() == 0
