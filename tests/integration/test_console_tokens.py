"""The console's token pages without a browser."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest

from bridge.access.scopes import SCOPES
from bridge.access.tokens import hash_token
from bridge.web.console.tokens import ON_A_PAGE
from tests.integration.calling import Bot, add_token
from tests.integration.console_pages import (
    HOSTILE,
    field,
    problem,
    shown,
    signed_in,
    visiting,
)

FILLED: dict[str, Any] = {
    "name": "crm",
    "scopes": ["events:read"],
    "patterns": "",
    "expiry": "days",
    "days": "90",
    "date": "",
}


def stored(bot: Bot) -> list[tuple[Any, ...]]:
    return bot.execute(
        "select name, scopes, expires_at, revoked_at from bridge.api_tokens order by id"
    ).fetchall()


@pytest.mark.parametrize("scope", [scope for scope in SCOPES if scope != "admin"])
async def test_token_pages_need_the_admin_scope(bridge_url: str, bot: Bot, scope: str) -> None:
    token_id = add_token(bot, "token", scope)
    before = stored(bot)
    async with signed_in(bridge_url, "token") as browser:
        for path in ("", "/new", f"/{token_id}/revoke"):
            assert (await browser.get(f"/console/tokens{path}")).status_code == 403
        assert (await browser.post("/console/tokens/new", data=FILLED)).status_code == 403
        answer = await browser.post(f"/console/tokens/{token_id}/revoke")
        assert answer.status_code == 403
        assert ">Tokens</a>" not in (await browser.get("/console")).text
    assert stored(bot) == before


async def test_token_forms_need_the_csrf_token(bridge_url: str, bot: Bot) -> None:
    token_id = add_token(bot, "token", "admin")
    before = stored(bot)
    async with signed_in(bridge_url) as browser:
        del browser.headers["X-CSRF-Token"]
        for path in ("new", f"{token_id}/revoke"):
            assert (await browser.post(f"/console/tokens/{path}", data=FILLED)).status_code == 403
    assert stored(bot) == before


async def test_new_token_is_shown_once(bridge_url: str, bot: Bot) -> None:
    async with signed_in(bridge_url) as browser:
        form = {
            **FILLED,
            "name": HOSTILE,
            "scopes": ["webhooks:write", "webhooks:read"],
            "patterns": "ticket.*, user.created",
        }
        made = await browser.post("/console/tokens/new", data=form)
        assert made.status_code == 201
        assert made.headers["Cache-Control"] == "no-store"
        [token] = re.findall(r'<code id="token">([^<]+)</code>', made.text)
        [(found, scopes)] = bot.execute(
            "select token_hash, scopes from bridge.api_tokens"
        ).fetchall()
        assert found == hash_token(unescape(token))
        assert scopes == [
            "events:read:ticket.*",
            "events:read:user.created",
            "webhooks:read",
            "webhooks:write",
        ]
        listed = await browser.get("/console/tokens")
        assert token not in listed.text
        assert f"{token[:12]}…" in listed.text
        assert HOSTILE in shown(listed)
        assert "<script>x" not in listed.text + made.text
    # The token works.
    async with signed_in(bridge_url, unescape(token)) as browser:
        assert (await browser.get("/console/webhooks")).status_code == 200
    rows = bot.execute("select action, via, actor from bridge.audit_log where via = 'console'")
    assert rows.fetchall() == [("token.created", "console", "BRIDGE_TOKEN")]


@pytest.mark.parametrize(
    ("expiry", "days"),
    [
        ({"expiry": "days", "days": "1"}, 1),
        ({"expiry": "days", "days": "36500"}, 36_500),
        ({"expiry": "never", "days": "nonsense"}, None),
    ],
    ids=["one day", "a hundred years", "forever"],
)
async def test_token_has_the_chosen_validity(
    bridge_url: str, bot: Bot, expiry: dict[str, str], days: int | None
) -> None:
    before = datetime.now(UTC)
    async with signed_in(bridge_url) as browser:
        answer = await browser.post("/console/tokens/new", data={**FILLED, **expiry})
        assert answer.status_code == 201
    after = datetime.now(UTC)
    [(_, _, expires_at, _)] = stored(bot)
    if days is None:
        assert expires_at is None
    else:
        assert before <= expires_at - timedelta(days=days) <= after


async def test_token_can_expire_at_the_end_of_a_day(bridge_url: str, bot: Bot) -> None:
    async with signed_in(bridge_url) as browser:
        form = {**FILLED, "expiry": "date", "date": "2999-12-31"}
        assert (await browser.post("/console/tokens/new", data=form)).status_code == 201
    [(_, _, expires_at, _)] = stored(bot)
    assert expires_at == datetime(3000, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changed", "name", "sentence"),
    [
        ({"name": ""}, "name", "1 to 255"),
        ({"name": "x" * 256}, "name", "1 to 255"),
        ({"patterns": "ticket.*, <b>"}, "patterns", "Types or groups"),
        ({"days": ""}, "days", "from 1 to 36500"),
        ({"days": "0"}, "days", "from 1 to 36500"),
        ({"days": "36501"}, "days", "from 1 to 36500"),
        ({"days": "²"}, "days", "from 1 to 36500"),
        ({"days": "1e3"}, "days", "from 1 to 36500"),
        ({"expiry": "", "days": ""}, "days", "from 1 to 36500"),
        ({"expiry": "date", "date": ""}, "date", "in the future"),
        ({"expiry": "date", "date": "2020-01-01"}, "date", "in the future"),
        ({"expiry": "date", "date": "9999-12-31"}, "date", "in the future"),
        ({"expiry": "date", "date": "tomorrow"}, "date", "in the future"),
    ],
)
async def test_invalid_token_form_keeps_its_input(
    bridge_url: str, bot: Bot, changed: dict[str, str], name: str, sentence: str
) -> None:
    async with signed_in(bridge_url) as browser:
        form = {**FILLED, "name": "kept", **changed}
        page = await browser.post("/console/tokens/new", data=form)
    assert page.status_code == 422
    assert sentence in problem(page, name)
    assert field(page, name) == form[name]
    assert 'value="events:read" checked' in page.text
    assert stored(bot) == []


@pytest.mark.parametrize("scopes", [[], ["everything"], ["events:read:*"]])
async def test_token_needs_a_scope(bridge_url: str, bot: Bot, scopes: list[str]) -> None:
    async with signed_in(bridge_url) as browser:
        page = await browser.post("/console/tokens/new", data={**FILLED, "scopes": scopes})
    assert page.status_code == 422
    assert "Select at least one." in shown(page)
    assert stored(bot) == []


async def test_token_is_revoked_after_confirmation(bridge_url: str, bot: Bot) -> None:
    token_id = add_token(bot, "token", "webhooks:read")
    async with signed_in(bridge_url, "token") as browser:
        cookies = dict(browser.cookies)
    async with signed_in(bridge_url) as browser:
        listed = await browser.get("/console/tokens")
        assert f'href="tokens/{token_id}/revoke"' in listed.text
        assert ">valid</span>" in listed.text
        path = f"/console/tokens/{token_id}/revoke"
        question = await browser.get(path)
        assert "This cannot be undone" in shown(question)
        assert "You are signed in with" not in shown(question)
        assert stored(bot)[0][3] is None
        revoked = await browser.post(path)
        assert (revoked.status_code, revoked.headers["Location"]) == (
            303,
            "../../tokens?done=revoked",
        )
        listed = await browser.get("/console/tokens?done=revoked")
        assert "The token was revoked" in shown(listed)
        assert ">revoked</span>" in listed.text
        assert "/revoke" not in listed.text
        assert "Revoke permanently" not in shown(await browser.get(path))
        assert (await browser.post(path)).status_code == 404
        assert (await browser.get("/console/tokens/4711/revoke")).status_code == 404
        assert (await browser.get("/console/tokens/x/revoke")).status_code == 404
    async with visiting(bridge_url) as browser:
        browser.cookies.update(cookies)
        assert (await browser.get("/console")).status_code == 303
    rows = bot.execute(
        "select via from bridge.audit_log where changes ? 'revoked_at' and via <> 'sql'"
    )
    assert rows.fetchall() == [("console",)]


async def test_revoking_your_own_token_signs_you_out(bridge_url: str, bot: Bot) -> None:
    token_id = add_token(bot, "token", "admin")
    async with signed_in(bridge_url, "token") as browser:
        assert ">you</span>" in (await browser.get("/console/tokens")).text
        path = f"/console/tokens/{token_id}/revoke"
        assert "you will be signed out" in shown(await browser.get(path))
        assert (await browser.post(path)).status_code == 303
        left = await browser.get("/console/tokens?done=revoked")
        assert left.status_code == 303
        assert "sign-in" in left.headers["Location"]


async def test_token_list_has_pages(bridge_url: str, bot: Bot) -> None:
    async with signed_in(bridge_url) as browser:
        page = await browser.get("/console/tokens")
        assert "No tokens yet" in shown(page)
        assert "BRIDGE_TOKEN, if set" in shown(page)
        for number in range(ON_A_PAGE + 1):
            add_token(bot, f"token {number}", "admin", expires="now()" if number else "null")
        page = await browser.get("/console/tokens")
        assert page.text.count(">expired</span>") == ON_A_PAGE
        link = re.search(r'rel="next" href="([^"]+)"', page.text)
        assert link
        page = await browser.get(f"/console/{link[1]}")
        assert page.text.count(">valid</span>") == 1
        assert 'href="tokens?offset=0"' in page.text
        assert (await browser.get("/console/tokens?offset=x")).status_code == 404
        assert (await browser.get("/console/tokens?done=%3Cb%3E")).status_code == 200
