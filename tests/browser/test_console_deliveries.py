"""Deliveries and audit log of the console in a browser."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Page, expect
from psycopg.types.json import Jsonb

from tests.browser.visits import (
    OpenPage,
    Photograph,
    Watch,
    looks_right,
    sign_in,
)
from tests.integration.calling import finish
from tests.webhook_rows import add_webhook

Bot = psycopg.Connection[Any]

HOSTILE = '"><script>document.title="pwned"</script><img src=x onerror=\'document.title="pwned"\'>'
#: What people and receivers can write: markup, what turns the direction of writing, a long word.
TEXT = f"{HOSTILE}\u202e{'W' * 400}"


@pytest.fixture
def bridge_settings() -> dict[str, Any]:
    return {"failed_logins_per_minute": 600}


def add_delivery(bot: Bot, webhook: int, payload: object, outcome: str | None = None) -> int:
    """Add a delivery, with an attempt if it is finished; return its id."""
    [(delivery,)] = bot.execute(
        """with event as (
               insert into bridge.events (event_type, payload, occurred_at, committed_at)
               values ('ticket.created', %s, now(), now()) returning id, recorded_at
           )
           insert into bridge.delivery_queue
               (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at)
           select %s, id, recorded_at, 'ticket.created', now(), now() from event returning id""",
        [Jsonb(payload), webhook],
    ).fetchall()
    if outcome is not None:
        finish(bot, delivery, outcome)
        is_success = outcome == "success"
        bot.execute(
            """insert into bridge.delivery_attempts
                   (delivery_id, webhook_id, attempt_number, started_at, finished_at, failure,
                    response_status, response_body, error_message)
               values (%s, %s, 1, now(), now(), %s, %s, %s, %s)""",
            [
                delivery,
                webhook,
                None if is_success else "http_5xx",
                200 if is_success else 500,
                TEXT * 20,
                None if is_success else TEXT,
            ],
        )
        bot.execute(
            "update bridge.delivery_log set error_message = %s, response_status = null"
            " where id = %s and status = 'failed'",
            [TEXT, delivery],
        )
    return int(delivery)


def test_failed_delivery_is_found_and_resent(page: Page, bot: Bot, photograph: Photograph) -> None:
    # Paused, so that nothing is sent during the test.
    webhook = add_webhook(
        bot,
        "http://127.0.0.1:9/" + "w" * 300,
        name=TEXT.replace("\u202e", "")[:250],
        paused_at=datetime.now(UTC),
    )
    failed = add_delivery(bot, webhook, {"text": TEXT, TEXT: [1]}, "failed")
    add_delivery(bot, webhook, {}, "success")
    sign_in(page, path="/console/deliveries")
    rows = page.get_by_role("row")
    expect(rows).to_have_count(3)
    looks_right(page)
    photograph(page, "deliveries")

    # The address contains the filters that are set.
    page.get_by_label("Status").select_option("failed")
    page.get_by_label("Type").fill("ticket.*")
    page.get_by_label("Type").press("Enter")
    expect(rows).to_have_count(2)
    assert page.url.endswith("/console/deliveries?status=failed&type=ticket.*")
    page.get_by_role("link", name=str(failed), exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"Delivery {failed}")
    expect(page.get_by_role("region", name="Payload")).to_contain_text(r"\u202eWWW")
    expect(page.get_by_role("region", name="Response to attempt 1")).to_contain_text(HOSTILE)
    page.get_by_text("Body, exactly as sent").click()
    expect(page.get_by_role("region", name="Body, exactly as sent")).to_contain_text('{"\\">')
    looks_right(page)
    photograph(page, "delivery")

    page.get_by_role("button", name="Resend").click()
    expect(page.get_by_role("status")).to_have_text("The delivery is being resent.")
    expect(page.get_by_text("the webhook is paused")).to_be_visible()
    page.get_by_role("button", name="Try now").click()
    expect(page.get_by_role("status")).to_contain_text("being tried now")
    looks_right(page)

    page.get_by_role("link", name="Changes").click()
    expect(rows.nth(1)).to_contain_text("Delivery resent")
    expect(rows.nth(1)).to_contain_text("BRIDGE_TOKEN")
    created = rows.filter(has_text="Webhook created")
    created.locator("summary").click()
    expect(created.locator("ins").filter(has_text=HOSTILE)).to_be_visible()
    looks_right(page)
    photograph(page, "changes")


def test_deliveries_are_counted_before_resending(
    page: Page, bot: Bot, watch: Watch, photograph: Photograph
) -> None:
    webhook = add_webhook(bot, "http://127.0.0.1:9/", name="crm", paused_at=datetime.now(UTC))
    failed = [add_delivery(bot, webhook, {}, "failed") for _ in range(3)]
    sign_in(page, path="/console/deliveries")

    # Select two of three with the keyboard.
    choose = page.get_by_role("button", name="Resend selected")
    expect(choose).to_be_disabled()
    page.get_by_label(f"Select delivery {failed[0]}").focus()
    page.keyboard.press("Space")
    expect(choose).to_be_enabled()
    page.get_by_label("Select all").check()
    page.get_by_label(f"Select delivery {failed[2]}").uncheck()
    choose.click()
    expect(page.get_by_role("heading", level=2)).to_have_text("Deliveries that would be sent: 2")
    looks_right(page)
    page.get_by_role("button", name="Resend them").click()
    expect(page.get_by_role("status")).to_have_text("The selected deliveries are being resent.")

    # By time; the fields are in local time.
    page.get_by_role("link", name="Resend failed").click()
    page.get_by_label("Webhook").select_option(label=f"crm · {webhook}")
    page.get_by_label("Deliveries per second").fill("much")
    page.get_by_role("button", name="Count").click()
    problem = page.get_by_text("Enter a number from")
    expect(problem).to_be_visible()
    watch.expected("status of 422")
    expect(page.get_by_label("Deliveries per second")).to_have_value("much")
    looks_right(page)
    page.get_by_label("Deliveries per second").fill("1")
    page.get_by_role("button", name="Count").click()
    expect(page.get_by_role("status")).to_contain_text("would be resent: 1")
    looks_right(page)
    photograph(page, "redeliver")
    page.get_by_role("button", name="Resend them").click()
    expect(page.get_by_role("row")).to_have_count(4)
    expect(page.get_by_role("status")).to_contain_text("one after another")


def test_times_are_local_and_utc_without_scripts(open_page: OpenPage, bot: Bot) -> None:
    page = open_page(timezone_id="Asia/Kathmandu", locale="ru-RU")
    webhook = add_webhook(bot, "http://127.0.0.1:9/", paused_at=datetime.now(UTC))
    delivery = add_delivery(bot, webhook, {})
    created = datetime(2026, 1, 15, 10, 0, tzinfo=UTC)
    bot.execute("update bridge.delivery_queue set created_at = %s", [created])
    page.goto("/console/deliveries")
    page.get_by_label("Токен").fill("the-token-of-the-tests")
    page.get_by_role("button", name="Войти").click()
    here = created + timedelta(hours=5, minutes=45)
    since = page.get_by_label("С, Asia/Kat")  # the zone's old or new name
    for later, found in ((0, 1), (1, 0)):
        since.fill(f"{here + timedelta(minutes=later):%Y-%m-%dT%H:%M}")
        page.get_by_role("button", name="Показать").click()
        page.wait_for_url(f"**/deliveries?since=2026-01-15T10%3A0{later}%3A00Z")
        expect(since).to_have_value(f"{here + timedelta(minutes=later):%Y-%m-%dT%H:%M}")
        expect(page.get_by_role("link", name=str(delivery), exact=True)).to_have_count(found)
        looks_right(page)

    # Everything also works without scripts.
    page = open_page(java_script_enabled=False)
    delivery = add_delivery(bot, webhook, {}, "failed")
    sign_in(page, path="/console/deliveries")
    expect(page.get_by_label("From, UTC")).to_be_visible()
    expect(page.get_by_text("2026-01-15 10:00:00 UTC")).to_be_visible()
    page.get_by_label(f"Select delivery {delivery}").check()
    page.get_by_role("button", name="Resend selected").click()
    page.get_by_role("button", name="Resend them").click()
    expect(page.get_by_role("status")).to_have_text("The selected deliveries are being resent.")
