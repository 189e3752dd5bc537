"""The console without a browser: sessions, form protection and responses."""

import re
from ipaddress import ip_network
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from bridge.access.authenticator import SESSION_SECONDS
from bridge.access.throttle import Throttle
from bridge.database.errors import DatabaseUnavailable
from bridge.web.console.overview import Overviews
from tests.integration.calling import TOKEN, Bot, add_token
from tests.integration.console_pages import csrf_of, sign_in, signed_in, visiting

#: Pages, and the scope that each needs.
PAGES = [
    ("/console", None),
    ("/console/events", "events:read"),
    ("/console/deliveries", "webhooks:read"),
    ("/console/deliveries/redeliver", "webhooks:write"),
    ("/console/audit", "admin"),
]


# --- signing in and out


async def test_signed_in_reader_sees_pages_until_sign_out(bridge_url: str) -> None:
    async with visiting(bridge_url) as browser:
        refused = await browser.get("/console")
        assert (refused.status_code, refused.headers["Location"]) == (303, "console/sign-in")
        entered = await sign_in(browser)
        assert (entered.status_code, entered.headers["Location"]) == (303, "./../console")
        page = await browser.get("/console")
        assert page.status_code == 200
        left = await browser.post("/console/sign-out", data={"csrf": csrf_of(page)})
        assert (left.status_code, left.headers["Location"]) == (303, "sign-in")
        assert (await browser.get("/console")).status_code == 303


async def test_copied_session_ends_at_sign_out(bridge_url: str) -> None:
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        copied = dict(browser.cookies)
        page = await browser.get("/console")
        await browser.post("/console/sign-out", data={"csrf": csrf_of(page)})
        browser.cookies.update(copied)
        assert (await browser.get("/console")).status_code == 303


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", "ключ", "\x00"])
async def test_wrong_token_is_reported(bridge_url: str, token: str) -> None:
    async with visiting(bridge_url) as browser:
        refused = await sign_in(browser, token)
        assert refused.status_code == 401
        assert "unknown, expired or revoked" in refused.text
        assert "pgbridge_session" not in browser.cookies


async def test_guessing_tokens_is_throttled(bridge_url: str) -> None:
    async with visiting(bridge_url, failures=Throttle(1 / 60, 3)) as browser:
        answers = [(await sign_in(browser, "guess")).status_code for _ in range(5)]
        assert answers == [401, 401, 401, 429, 429]
        held = await sign_in(browser)
        assert held.status_code == 429
        assert int(held.headers["Retry-After"]) > 0


async def test_old_cookies_do_not_count_as_guesses(bridge_url: str) -> None:
    async with visiting(bridge_url, failures=Throttle(1 / 60, 3)) as browser:
        browser.cookies.set("pgbridge_session", "pgs_old", domain="bridge.local")
        for _ in range(10):
            await browser.get("/console")
        assert (await sign_in(browser)).status_code == 303


async def test_cookie_is_closed_to_scripts_and_other_sites(bridge_url: str) -> None:
    async with visiting(bridge_url) as browser:
        cookies = (await sign_in(browser)).headers.get_list("Set-Cookie")
        [session] = [each for each in cookies if each.startswith("pgbridge_session=")]
        attributes = {each.strip() for each in session.lower().split(";")[1:]}
        assert attributes == {"httponly", "samesite=lax", f"max-age={SESSION_SECONDS:.0f}"}


@pytest.mark.parametrize(("proxies", "secure"), [((ip_network("127.0.0.1"),), True), ((), False)])
async def test_cookie_is_secure_behind_a_tls_proxy(
    bridge_url: str, proxies: tuple[Any, ...], secure: bool
) -> None:
    async with visiting(bridge_url, proxies=proxies) as browser:
        answer = await sign_in(browser, **{"X-Forwarded-Proto": "https"})
        cookies = answer.headers.get_list("Set-Cookie")
        [session] = [each for each in cookies if each.startswith("pgbridge_session=")]
        assert ("secure" in session.lower()) is secure


async def test_only_a_hash_of_the_session_is_stored(bridge_url: str, bot: Bot) -> None:
    add_token(bot, "token", "admin")
    async with visiting(bridge_url) as browser:
        for token in (TOKEN, "token"):
            await sign_in(browser, token)
        session = browser.cookies["pgbridge_session"]
    rows = bot.execute("select to_jsonb(s)::text, token_source from bridge.console_sessions s")
    stored = rows.fetchall()
    assert sorted(source for _, source in stored) == ["bridge", "setting"]
    assert not [text for text, _ in stored if session in text or session.encode().hex() in text]


async def test_session_ends_with_its_token(bridge_url: str, bot: Bot) -> None:
    add_token(bot, "token", "admin")
    async with visiting(bridge_url) as browser:
        await sign_in(browser, "token")
        assert (await browser.get("/console")).status_code == 200
        bot.execute("update bridge.api_tokens set revoked_at = now()")
        assert (await browser.get("/console")).status_code == 303


async def test_expired_session_is_deleted(bridge_url: str, bot: Bot) -> None:
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        bot.execute("update bridge.console_sessions set expires_at = now() - interval '1 second'")
        assert (await browser.get("/console")).status_code == 303
        await sign_in(browser)
    assert len(bot.execute("select from bridge.console_sessions").fetchall()) == 1


# --- redirects and links


@pytest.mark.parametrize(
    ("wanted", "target"),
    [
        ("events", "./events"),
        ("webhooks/7/edit", "./webhooks/7/edit"),
        ("deliveries?status=failed&webhook=7", "./deliveries?status=failed&webhook=7"),
        ("", "./../console"),
        ("//evil.example", "./../console"),
        ("/evil", "./../console"),
        ("https://evil.example", "./../console"),
        ("https:evil.example", "./../console"),
        ("../../evil", "./../console"),
        ("events/../../evil", "./../console"),
        ("events?x=..", "./../console"),
        ("\\evil.example", "./../console"),
        ("events\r\nX-Header: 1", "./../console"),
    ],
)
async def test_sign_in_redirects_only_within_the_console(
    bridge_url: str, wanted: str, target: str
) -> None:
    async with visiting(bridge_url) as browser:
        assert (await sign_in(browser, wanted=wanted)).headers["Location"] == target


async def test_sign_in_link_keeps_the_requested_page(bridge_url: str) -> None:
    async with visiting(bridge_url) as browser:
        answer = await browser.get("/console/events", params={"types": "a b"})
        assert answer.headers["Location"] == "sign-in?next=events%3Ftypes%3Da%2Bb"


@pytest.mark.parametrize(
    ("path", "link"),
    [
        ("/console", 'href="console/events"'),
        ("/console/", 'href="events"'),
        ("/console/events", 'href="events"'),
        ("/console/events/", 'href="../events"'),
    ],
)
async def test_links_are_relative(bridge_url: str, path: str, link: str) -> None:
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        page = await browser.get(path)
        assert link in page.text
        assert 'href="/' not in page.text
        assert 'src="/' not in page.text
        assert 'action="/' not in page.text


async def test_sign_in_works_in_several_tabs(bridge_url: str) -> None:
    async with visiting(bridge_url) as browser:
        tabs = [csrf_of(await browser.get("/console/sign-in")) for _ in range(2)]
        for csrf in tabs:
            fields = {"csrf": csrf, "token": TOKEN}
            assert (await browser.post("/console/sign-in", data=fields)).status_code == 303


@pytest.mark.parametrize("kept", ["short", "x" * 5_000, 'x"; Domain=example.org', "Ж" * 43])
async def test_foreign_sign_in_cookie_is_ignored(bridge_url: str, kept: str) -> None:
    async with visiting(bridge_url) as browser:
        cookie = b"pgbridge_sign_in=" + kept.encode()
        page = await browser.get("/console/sign-in", headers={b"Cookie": cookie})
        [made] = page.headers.get_list("Set-Cookie")
        assert re.match("pgbridge_sign_in=[A-Za-z0-9_-]{43};", made)
        assert kept not in made


@pytest.mark.parametrize(("path", "base"), [("/console/events", ""), ("/console/events/", "../")])
async def test_feed_finds_ticket_and_stream_under_any_prefix(
    bridge_url: str, path: str, base: str
) -> None:
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        page = await browser.get(path)
        assert f'data-ticket="{base}ticket"' in page.text
        assert f'data-socket="{base}../ws"' in page.text


# --- cross-site request forgery


@pytest.mark.parametrize("csrf", [None, "", "wrong", "ключ"])
async def test_form_without_csrf_token_is_rejected(bridge_url: str, csrf: str | None) -> None:
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        for path in ("/console/sign-out", "/console/ticket"):
            answer = await browser.post(path, data={} if csrf is None else {"csrf": csrf})
            assert answer.status_code == 403
            assert "not belong to this session" in answer.text
        assert (await browser.get("/console")).status_code == 200


async def test_form_of_another_session_is_rejected(bridge_url: str) -> None:
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        foreign = csrf_of(await browser.get("/console"))
        browser.cookies.clear()
        await sign_in(browser)
        assert csrf_of(await browser.get("/console")) != foreign
        answer = await browser.post("/console/sign-out", data={"csrf": foreign})
        assert answer.status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_cross_site_request_is_rejected(bridge_url: str, site: str) -> None:
    async with visiting(bridge_url) as browser:
        assert (await sign_in(browser, **{"Sec-Fetch-Site": site})).status_code == 403
        await sign_in(browser)
        csrf = csrf_of(await browser.get("/console"))
        answer = await browser.post(
            "/console/sign-out", data={"csrf": csrf}, headers={"Sec-Fetch-Site": site}
        )
        assert answer.status_code == 403
        assert (await browser.get("/console")).status_code == 200


async def test_sign_in_needs_the_cookie_of_its_page(bridge_url: str) -> None:
    """Otherwise another site could sign a browser in to a session it controls."""
    async with visiting(bridge_url) as browser:
        assert (await browser.post("/console/sign-in", data={"token": TOKEN})).status_code == 403
        form = await browser.get("/console/sign-in")
        browser.cookies.clear()
        fields = {"csrf": csrf_of(form), "token": TOKEN}
        refused = await browser.post("/console/sign-in", data=fields)
        assert refused.status_code == 403
        assert "cookies are disabled" in refused.text


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b'{"csrf": "x"}', "application/json", 422),
        (b"csrf=x", "text/plain", 422),
        (b"csrf=%ff", "application/x-www-form-urlencoded", 422),
        ("csrf=ключ".encode(), "application/x-www-form-urlencoded", 422),
        (b"a=1&" * 1_000, "application/x-www-form-urlencoded", 422),
        (b"a" * (1024 * 1024 + 1), "application/x-www-form-urlencoded", 413),
    ],
)
async def test_other_content_types_are_rejected(
    bridge_url: str, body: bytes, media_type: str, status: int
) -> None:
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        headers = {"Content-Type": media_type}
        answer = await browser.post("/console/sign-out", content=body, headers=headers)
        assert answer.status_code == status


async def test_unknown_form_field_is_refused_in_words(bridge_url: str, bot: Bot) -> None:
    async with signed_in(bridge_url) as browser:
        for path, name, words in (
            (
                "webhooks/new",
                "fliter",
                "unknown field &#34;fliter&#34;; did you mean &#34;filter&#34;",
            ),
            ("tokens/new", "scope", "did you mean &#34;scopes&#34;"),
            ("deliveries/redeliver", "until_", "did you mean &#34;until&#34;"),
            ("deliveries/redeliver-chosen", "deliveries", "did you mean &#34;delivery&#34;"),
        ):
            answer = await browser.post(f"/console/{path}", data={name: "x"})
            assert answer.status_code == 422, path
            assert words in answer.text, path
        page = await browser.get("/console/sign-in")
        answer = await browser.post(
            "/console/sign-in", data={"csrf": csrf_of(page), "tokens": TOKEN}
        )
        assert answer.status_code == 422
        assert "did you mean &#34;token&#34;" in answer.text
    assert bot.execute("select count(*) from bridge.webhooks").fetchone() == (0,)
    assert bot.execute("select count(*) from bridge.api_tokens").fetchone() == (0,)


async def test_session_cookie_does_not_open_the_api(bridge_url: str) -> None:
    """The API needs a header, which forms of other sites cannot send."""
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        assert (await browser.get("/webhooks")).status_code == 401
        assert (await browser.post("/ws/tickets")).status_code == 401


# --- scopes and pages


@pytest.mark.parametrize(("path", "scope"), PAGES)
async def test_page_requires_its_scope(
    bridge_url: str, bot: Bot, path: str, scope: str | None
) -> None:
    add_token(bot, "narrow", "events:read:ticket.*" if scope != "events:read" else "webhooks:read")
    async with visiting(bridge_url) as browser:
        await sign_in(browser, "narrow")
        answer = await browser.get(path)
        assert answer.status_code == (200 if scope is None else 403)
        if scope is not None:
            assert f"does not have the scope {scope}" in answer.text


async def test_ticket_is_limited_to_the_readers_events(bridge_url: str, bot: Bot) -> None:
    token_id = add_token(bot, "narrow", "events:read:ticket.*")
    async with visiting(bridge_url) as browser:
        await sign_in(browser, "narrow")
        page = await browser.get("/console/events")
        assert "<code>ticket.*</code>" in page.text
        answer = await browser.post("/console/ticket", headers={"X-CSRF-Token": csrf_of(page)})
        assert answer.json()["ticket"].startswith("pgt_")
    rows = bot.execute("select token_source, token_id from bridge.ws_tickets").fetchall()
    assert rows == [("bridge", token_id)]


async def test_token_name_is_escaped(bridge_url: str, bot: Bot) -> None:
    add_token(bot, "token", "admin")
    bot.execute("update bridge.api_tokens set name = '<script>alert(1)</script>'")
    async with visiting(bridge_url) as browser:
        await sign_in(browser, "token")
        page = await browser.get("/console")
        assert "<script>alert" not in page.text
        assert "&lt;script&gt;alert" in page.text


async def test_pages_have_a_strict_policy_and_are_not_cached(bridge_url: str) -> None:
    async with visiting(bridge_url) as browser:
        pages = [await browser.get("/console/sign-in")]
        await sign_in(browser)
        pages += [await browser.get(path) for path, _ in PAGES]
        pages += [await browser.post("/console/ticket")]
        for page in pages:
            policy = page.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert page.headers["Cache-Control"] == "no-store"
            assert page.headers["X-Frame-Options"] == "DENY"
            assert " style=" not in page.text
            assert not re.search(r"\son[a-z]+=", page.text)
            assert not re.search(r"<script(?![^>]*\bsrc=)", page.text)


async def test_static_files_are_revalidated(bridge_url: str) -> None:
    async with visiting(bridge_url) as browser:
        for name in (
            "console.css",
            "console.js",
            "feed.js",
            "deliveries.js",
            "pgbridge.js",
            "icon.svg",
        ):
            first = await browser.get(f"/console/static/{name}")
            assert first.status_code == 200
            assert first.headers["Cache-Control"] == "no-cache"
            again = await browser.get(
                f"/console/static/{name}", headers={"If-None-Match": first.headers["ETag"]}
            )
            assert (again.status_code, again.content) == (304, b"")
        for name in ("ru.toml", "..%2fru.toml", "%2e%2e/ru.toml"):
            assert (await browser.get(f"/console/static/{name}")).status_code == 404


@pytest.mark.parametrize(
    ("name", "value"), [("Sec-Fetch-Mode", "cors"), ("X-Requested-With", "fetch")]
)
async def test_script_of_an_ended_session_gets_401(bridge_url: str, name: str, value: str) -> None:
    async with visiting(bridge_url) as browser:
        for method, path in (("GET", "/console"), ("POST", "/console/ticket")):
            answer = await browser.request(method, path, headers={name: value})
            assert answer.status_code == 401


async def test_missing_page_is_a_404_page(bridge_url: str) -> None:
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        answer = await browser.get("/console?minutes=much")
        assert answer.status_code == 404
        assert "Page not found" in answer.text


async def test_unexpected_error_is_a_page_and_logged(bridge_url: str, bot: Bot) -> None:
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        bot.execute("alter table bridge.activity rename to somewhere_else")
        with capture_logs() as logged:
            answer = await browser.get("/console")
    assert answer.status_code == 500
    assert "Request failed" in answer.text
    assert "somewhere_else" not in answer.text
    assert [(line["event"], line["sqlstate"]) for line in logged] == [("request_failed", "42P01")]


async def test_stalled_part_is_named(bridge_url: str) -> None:
    troubles = {"relay": None, "outbox": "event 812 waits <b>"}
    async with visiting(bridge_url, troubles=lambda: troubles) as browser:
        await sign_in(browser)
        page = (await browser.get("/console")).text
        alerts = re.findall(r'role="alert">(.*?)</p>', page, re.DOTALL)
        assert [alert for alert in alerts if "event 812 waits &lt;b&gt;" in alert]
        assert not [alert for alert in alerts if "relay" in alert]


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", "<strong>payment.completed</strong> (its trigger is disabled)"),
        ("ru", "<strong>payment.completed</strong> (триггер отключён)"),
    ],
)
async def test_blind_rules_are_named(bridge_url: str, bot: Bot, language: str, words: str) -> None:
    async with visiting(bridge_url) as browser:
        browser.headers["Accept-Language"] = language
        await sign_in(browser)
        assert "pgbridge init" not in (await browser.get("/console")).text
        bot.execute("alter table public.transactions disable trigger all")
        assert words in (await browser.get("/console?minutes=60")).text


async def test_figures_are_queried_once_for_all_readers(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Counting:
        def __init__(self, database: Any) -> None:
            self._database = database

        async def fetch(self, name: str, *values: object) -> Any:
            asked.append(name)
            return await self._database.fetch(name, *values)

    original = Overviews.__init__
    monkeypatch.setattr(
        Overviews, "__init__", lambda self, database: original(self, Counting(database))
    )
    monkeypatch.setattr("bridge.web.console.overview.FRESH_SECONDS", 3600.0)
    monkeypatch.setattr("bridge.web.console.overview.LONGEST_KEPT_SECONDS", 3600.0)
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        for _ in range(3):
            assert (await browser.get("/console")).status_code == 200
        await browser.get("/console?minutes=60")
    assert asked.count("overview") == 2


async def test_failed_figures_are_shared_by_waiting_readers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked = []

    class Hanging:
        async def fetch(self, name: str, *_values: object) -> Any:
            asked.append(name)
            await trio.sleep(10)
            raise DatabaseUnavailable("no answer within 10 s")

    overviews = Overviews(Hanging())
    failed_at = []

    async def look() -> None:
        with pytest.raises(DatabaseUnavailable):
            await overviews.get(15)
        failed_at.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(look)
    assert asked == ["overview"]
    assert max(failed_at) - min(failed_at) < 1
    await look()  # later readers query again
    assert asked == ["overview", "overview"]
