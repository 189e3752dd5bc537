"""Helpers for tests of console pages: sign in, read forms, add webhooks."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from typing import Any

import httpx
from psycopg.rows import dict_row

from bridge.database.pool import Row
from bridge.webhooks.trial import Trial
from tests.integration.calling import TOKEN, Bot, calling
from tests.webhook_rows import add_webhook

CSRF = re.compile(r'name="csrf" value="([^"]+)"')
HOSTILE = '"><script>x</script>שלום&amp;'
#: What a browser sends of the form as it is at first, with the three fields filled in.
FILLED = {
    "name": "crm",
    "url": "https://crm.example/hook",
    "event_type": "user.created",
    "description": "",
    "secret_choice": "none",
    "secret": "",
    "is_active": "yes",
    "filter": "",
    "retry_schedule": "",
    "timeout_seconds": "15",
    "max_concurrency": "4",
    "rate_per_second": "",
}
ACTIONS = ("test", "pause", "resume", "switch-on", "switch-off", "rotate-secret", "delete", "edit")


def csrf_of(page: httpx.Response) -> str:
    """Return the hidden fields of a page's form."""
    found = CSRF.search(page.text)
    assert found, page.text
    return found[1]


@asynccontextmanager
async def visiting(url: str, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client without a token that keeps cookies, as a browser does."""
    async with calling(url, token=None, **options) as browser:
        yield browser


async def sign_in(
    browser: httpx.AsyncClient, token: str = TOKEN, wanted: str = "", **headers: str
) -> httpx.Response:
    """Sign in with the form."""
    form = await browser.get("/console/sign-in", params={"next": wanted})
    fields = {"csrf": csrf_of(form), "token": token, "next": wanted}
    return await browser.post("/console/sign-in", data=fields, headers=headers)


async def no_trial(_webhook: Row) -> Trial:
    return Trial(200, "fine", None, 0.01)


@asynccontextmanager
async def signed_in(
    url: str, token: str = TOKEN, **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a signed-in client that sends the CSRF token in a header."""
    async with visiting(url, **{"send_trial": no_trial, **options}) as browser:
        await sign_in(browser, token)
        browser.headers["X-CSRF-Token"] = csrf_of(await browser.get("/console"))
        yield browser


def add_crm(bot: Bot, **columns: object) -> int:
    """Add a webhook; return its id."""
    columns = {"name": "crm", "timeout_seconds": 15} | columns
    return add_webhook(bot, "https://crm.example/hook", **columns)


def stored(bot: Bot, webhook_id: int) -> dict[str, Any]:
    with bot.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "select *, filter::text as filter from bridge.webhooks where id = %s", [webhook_id]
        ).fetchone()
    assert row is not None
    return row


def count(bot: Bot) -> int:
    return len(bot.execute("select id from bridge.webhooks").fetchall())


def shown(page: httpx.Response) -> str:
    """Return the visible text of a page."""
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.text)))


def field(page: httpx.Response, name: str) -> str:
    """Return the value of a field."""
    found = re.search(rf'<input [^>]*name="{name}"[^>]* value="([^"]*)"', page.text) or re.search(
        rf'<textarea [^>]*name="{name}"[^>]*>\n?(.*?)</textarea>', page.text, re.DOTALL
    )
    assert found, name
    return unescape(found[1])


def problem(page: httpx.Response, name: str) -> str:
    """Return the error message of a field."""
    found = re.search(rf'<div id="{name}-about">\s*<p class="problem">(.*?)</p>', page.text)
    assert found, page.text
    return unescape(re.sub(r"<[^>]*>", "", found[1]))
