"""The console's audit log."""

import re

import pytest
from psycopg.types.json import Jsonb

from bridge.web.console import changes
from tests.integration.calling import FORM, TOKEN, Bot, add_token, calling
from tests.integration.console_pages import sign_in, visiting

PATH = "/console/audit"
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(1)</script>\u202e' + "w" * 3_000


def plain(html: str) -> str:
    """Return the visible text of a page."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


async def test_changes_show_old_and_new_values(bridge_url: str, bot: Bot) -> None:
    bot.execute("truncate bridge.audit_log")
    async with calling(bridge_url) as client:
        created = await client.post("/webhooks", json={**FORM, "generate_secret": True})
        webhook = created.json()
        path = f"/webhooks/{webhook['id']}"
        await client.patch(path, json={"name": "Shop 2", "is_active": False})
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        page = await browser.get(PATH)
    text = plain(page.text)
    assert "Webhook created" in text
    assert "Webhook changed" in text
    assert "is_active from true → to false" in text
    assert "name from Shop → to Shop 2" in text
    assert "secret to (secret)" in text
    assert "API · 127.0.0.1 · as postgres" in text
    assert text.index("Webhook changed") < text.index("Webhook created")
    assert f'href="webhooks/{webhook["id"]}"' in page.text
    assert webhook["secret"] not in page.text
    assert TOKEN not in page.text


async def test_changes_without_old_values_are_readable(bridge_url: str, bot: Bot) -> None:
    bot.execute("truncate bridge.audit_log")
    for action, target_id, written in (
        ("delivery.redelivered", 7, {"webhook_id": 3, "was_pending": False}),
        ("webhook.truncated", None, {"count": 12}),
        ("thing.done", None, {"list": [1, {"from": 1}]}),
    ):
        bot.execute("select bridge.audit(%s, %s, null, %s)", [action, target_id, Jsonb(written)])
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        page = await browser.get(PATH)
    text = plain(page.text)
    assert "Delivery resent 7" in text
    assert "webhook_id to 3 was_pending to false" in text
    assert "All webhooks deleted" in text
    assert "thing.done" in text
    assert 'href="deliveries/7"' in page.text


async def test_values_are_escaped_and_bounded(bridge_url: str, bot: Bot) -> None:
    bot.execute("truncate bridge.audit_log")
    bot.execute(
        "select bridge.audit('webhook.updated', 1, %s, %s)",
        [HOSTILE, Jsonb({HOSTILE[:50]: {"from": HOSTILE, "to": {"a": HOSTILE}}})],
    )
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        page = await browser.get(PATH)
    assert page.status_code == 200
    assert "<img src=x" not in page.text
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text
    assert "w" * (changes.MOST_OF_A_VALUE + 1) not in page.text


async def test_pages_of_changes_have_no_gap(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "SHOWN", 2)
    bot.execute("truncate bridge.audit_log")
    for number in range(5):
        bot.execute("select bridge.audit('rule.updated', null, %s, '{}')", [f"rule-{number}"])
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        seen, path = [], PATH
        while True:
            page = await browser.get(path)
            seen += re.findall(r"rule-\d", page.text)
            older = re.search(r'href="(audit\?before_id=\d+)"', page.text)
            if older is None:
                break
            path = f"/console/{older[1]}"
        assert seen == [f"rule-{number}" for number in (4, 3, 2, 1, 0)]
        assert "No older changes are kept" in (await browser.get(f"{PATH}?before_id=1")).text
        for wrong in ("0", "x", "1_0", "9" * 30):
            assert (await browser.get(f"{PATH}?before_id={wrong}")).status_code == 404


async def test_changes_need_the_admin_scope(bridge_url: str, bot: Bot) -> None:
    add_token(bot, "writer", "webhooks:write", "events:read")
    async with visiting(bridge_url) as browser:
        assert (await browser.get(PATH)).status_code == 303
        await sign_in(browser, "writer")
        assert (await browser.get(PATH)).status_code == 403
        assert 'href="audit"' not in (await browser.get("/console/deliveries")).text
        await sign_in(browser)
        assert 'href="audit"' in (await browser.get("/console/deliveries")).text
