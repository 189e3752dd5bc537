"""The console's webhook pages without a browser."""

import re
from html import unescape

import pytest

from bridge.assets import query
from bridge.web.console.webhooks import COUNTED_IN_LIST, ON_A_PAGE
from tests.integration.calling import (
    MAX_BIGINT,
    Bot,
    add_pending,
    add_token,
    secrets_of,
)
from tests.integration.console_pages import (
    ACTIONS,
    FILLED,
    HOSTILE,
    add_crm,
    count,
    field,
    problem,
    shown,
    signed_in,
    stored,
)

# --- permissions


async def test_read_only_token_cannot_change_webhooks(bridge_url: str, bot: Bot) -> None:
    webhook = add_crm(bot, secret="s3cret-of-it")
    add_token(bot, "looks", "webhooks:read")
    before = stored(bot, webhook)
    async with signed_in(bridge_url, "looks") as browser:
        for path in ("/console/webhooks", f"/console/webhooks/{webhook}"):
            page = await browser.get(path)
            assert page.status_code == 200
            assert "crm" in page.text
            assert "s3cret-of-it" not in page.text
            forms = re.findall(r'<form [^>]*action="([^"]*)"', page.text)
            assert [form.rpartition("/")[2] for form in forms] == ["sign-out"]
        for page_name in ("new", f"{webhook}/edit", f"{webhook}/delete"):
            assert (await browser.get(f"/console/webhooks/{page_name}")).status_code == 403
        assert (await browser.post("/console/webhooks/new", data=FILLED)).status_code == 403
        for action in ACTIONS:
            answer = await browser.post(f"/console/webhooks/{webhook}/{action}", data=FILLED)
            assert answer.status_code == 403, action
    assert stored(bot, webhook) == before
    assert count(bot) == 1


async def test_events_token_sees_no_webhooks(bridge_url: str, bot: Bot) -> None:
    webhook = add_crm(bot)
    add_token(bot, "events", "events:read")
    async with signed_in(bridge_url, "events") as browser:
        for path in ("/console/webhooks", f"/console/webhooks/{webhook}"):
            assert (await browser.get(path)).status_code == 403


async def test_webhook_forms_need_the_csrf_token(bridge_url: str, bot: Bot) -> None:
    webhook = add_crm(bot)
    before = stored(bot, webhook)
    async with signed_in(bridge_url) as browser:
        browser.headers["X-CSRF-Token"] = "another"
        assert (await browser.post("/console/webhooks/new", data=FILLED)).status_code == 403
        for action in ACTIONS:
            answer = await browser.post(f"/console/webhooks/{webhook}/{action}", data=FILLED)
            assert answer.status_code == 403, action
    assert stored(bot, webhook) == before
    assert count(bot) == 1


@pytest.mark.parametrize("number", ["0", "-1", "4711", str(MAX_BIGINT), "9" * 30, "x", "1.0"])
async def test_missing_webhook_is_404(bridge_url: str, number: str) -> None:
    async with signed_in(bridge_url) as browser:
        for page in ("", "/edit", "/delete"):
            answer = await browser.get(f"/console/webhooks/{number}{page}")
            assert answer.status_code == 404, page
        for action in ACTIONS:
            form = {**FILLED, "secret_choice": "generate"}
            answer = await browser.post(f"/console/webhooks/{number}/{action}", data=form)
            assert answer.status_code == 404, action
            assert "text/html" in answer.headers["Content-Type"]


# --- the list


async def test_empty_list_explains_webhooks(bridge_url: str, bot: Bot) -> None:
    add_token(bot, "looks", "webhooks:read")
    async with signed_in(bridge_url) as browser:
        page = await browser.get("/console/webhooks")
        assert "No webhooks yet" in shown(page)
        assert 'href="webhooks/new"' in page.text
    async with signed_in(bridge_url, "looks") as browser:
        page = await browser.get("/console/webhooks")
        assert "webhooks/new" not in page.text
        assert "has the scope: webhooks:write" in shown(page)


async def test_list_has_pages_and_bounded_counts(bridge_url: str, bot: Bot) -> None:
    first = add_crm(bot, name="the first")
    bot.execute(
        """insert into bridge.webhooks (name, url, event_type)
           select 'no. ' || n, 'https://a.example', '*' from generate_series(2, %s) n""",
        [ON_A_PAGE + 1],
    )
    bot.execute(
        """insert into bridge.delivery_queue (webhook_id, event_id, event_recorded_at, event_type)
           select %s, n, now(), 'a' from generate_series(1, %s) n""",
        [first, COUNTED_IN_LIST + 1],
    )
    async with signed_in(bridge_url) as browser:
        page = await browser.get("/console/webhooks")
        assert page.text.count('class="whole"') == ON_A_PAGE
        assert "the first" not in page.text
        link = re.search(r'rel="next" href="([^"]+)"', page.text)
        assert link
        page = await browser.get(f"/console/{link[1]}")
        assert page.text.count('class="whole"') == 1
        assert "1\u202f000+" in page.text
        assert 'rel="next"' not in page.text
        page = await browser.get("/console/webhooks?before=1")
        assert "No older webhooks" in shown(page)
        for wrong in ("0", "x", "-1", str(MAX_BIGINT + 1)):
            assert (await browser.get(f"/console/webhooks?before={wrong}")).status_code == 404


async def test_idle_webhook_is_found_by_its_index(
    bot: Bot,
) -> None:
    """Through the primary key, finding its newest delivery would scan all others."""
    bot.execute("set plan_cache_mode = force_generic_plan")
    for planner_option in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):
        bot.execute(f"set {planner_option} = off".encode())
    for name, types, values in (
        ("webhooks_page", "bigint, bigint, bigint, bigint", "1, 1, 1, 10"),
        ("webhook_figures", "bigint, bigint", "1, 10"),
    ):
        bot.execute(f"prepare {name} ({types}) as {query(name)}".encode())
        rows = bot.execute(f"explain execute {name} ({values})".encode()).fetchall()
        scans = [
            line for (line,) in rows if re.search("Scan .* on (delivery_queue|delivery_log)", line)
        ]
        assert scans
        assert not [line for line in scans if "pkey" in line or "Seq" in line]


# --- creating


async def test_generated_secret_is_shown_once(bridge_url: str, bot: Bot) -> None:
    token_id = add_token(bot, "writes", "webhooks:write")
    async with signed_in(bridge_url, "writes") as browser:
        made = await browser.post(
            "/console/webhooks/new", data={**FILLED, "secret_choice": "generate"}
        )
        assert made.status_code == 201
        assert made.headers["Cache-Control"] == "no-store"
        [secret] = re.findall(r'<code id="secret">([^<]+)</code>', made.text)
        [(webhook,)] = bot.execute("select id from bridge.webhooks").fetchall()
        assert secrets_of(bot, webhook) == [unescape(secret), None]
        for path in ("", f"/{webhook}", f"/{webhook}/edit", f"/{webhook}/delete"):
            assert secret not in (await browser.get(f"/console/webhooks{path}")).text
    [(via, actor)] = bot.execute(
        "select via, actor from bridge.audit_log where action = 'webhook.created'"
    ).fetchall()
    assert (via, actor) == ("console", f"bridge token {token_id} (t)")


async def test_every_field_is_saved(bridge_url: str, bot: Bot) -> None:
    form = {
        "name": HOSTILE,
        "url": "https://crm.example/hook?a=b",
        "event_type": "ticket.*",
        "description": "one\r\ntwo",
        "secret_choice": "given",
        "secret": " the secret, with its spaces ",
        "filter": "$.amount >= 100",
        "retry_schedule": "0, 5; 300 0.5",
        "timeout_seconds": "30",
        "max_concurrency": "1",
        "rate_per_second": "0,5",
        "ordered": "yes",
    }
    async with signed_in(bridge_url) as browser:
        made = await browser.post("/console/webhooks/new", data=form)
        assert made.status_code == 303
        [(webhook,)] = bot.execute("select id from bridge.webhooks").fetchall()
        assert made.headers["Location"] == f"../webhooks/{webhook}?done=created"
        row = stored(bot, webhook)
        expected = {
            "name": HOSTILE,
            "url": "https://crm.example/hook?a=b",
            "event_type": "ticket.*",
            "description": "one\ntwo",
            "secret": " the secret, with its spaces ",
            "filter": '($."amount" >= 100)',
            "retry_schedule": [0, 5, 300, 0.5],
            "timeout_seconds": 30,
            "max_concurrency": 1,
            "rate_per_second": 0.5,
            "ordered": True,
            "is_active": False,
        }
        assert {name: row[name] for name in expected} == expected
        page = await browser.get(f"/console/webhooks/{webhook}?done=created")
        assert "<script>x" not in page.text
        assert HOSTILE in shown(page)
        # The form shows the current values; submitting it unchanged changes nothing.
        page = await browser.get(f"/console/webhooks/{webhook}/edit")
        sent = {
            name: field(page, name)
            for name in (*FILLED, "seen")
            if name in form or name == "seen"
            if name not in ("secret_choice", "secret")
        }
        assert sent["name"] == HOSTILE
        answer = await browser.post(
            f"/console/webhooks/{webhook}/edit",
            data={**sent, "ordered": "yes", "secret_choice": "keep"},
        )
        assert answer.status_code == 303, shown(answer)
        now = stored(bot, webhook)
        assert {**now, "updated_at": None} == {**row, "updated_at": None}


@pytest.mark.parametrize(
    ("name", "typed", "sentence"),
    [
        ("name", "", "Enter 1 to 255 characters"),
        ("name", "x" * 256, "Enter 1 to 255 characters"),
        ("name", "a\0b", "Enter 1 to 255 characters"),
        ("url", "ftp://a.example", "Enter a URL such as"),
        ("url", "https://user:word@a.example", "Enter a URL such as"),
        ("event_type", "a b", "Enter parts of letters"),
        ("event_type", "", "Enter parts of letters"),
        ("description", "a\0b", "cannot be stored"),
        ("timeout_seconds", "0", "from 1 to 120"),
        ("timeout_seconds", "", "from 1 to 120"),
        ("max_concurrency", "1001", "from 1 to 1000"),
        ("rate_per_second", "fast", "Enter a number from"),
        ("rate_per_second", "nan", "Enter a number from"),
        ("retry_schedule", "5, soon", "delays in seconds"),
        ("retry_schedule", "0 " * 101, "delays in seconds"),
        ("filter", "$.a ==", "This condition is not allowed. must be a jsonpath"),
        ("filter", "$.**.a == 1", "This condition is not allowed. must not contain **"),
    ],
)
async def test_invalid_webhook_form_keeps_its_input(
    bridge_url: str, bot: Bot, name: str, typed: str, sentence: str
) -> None:
    webhook = add_crm(bot)
    before = stored(bot, webhook)
    async with signed_in(bridge_url) as browser:
        edit = f"/console/webhooks/{webhook}/edit"
        seen = field(await browser.get(edit), "seen")
        for path, more in (
            ("/console/webhooks/new", {"secret_choice": "given", "secret": "s3cret-typed"}),
            (edit, {"secret_choice": "given", "secret": "s3cret-typed", "seen": seen}),
        ):
            page = await browser.post(
                path, data={**FILLED, "description": HOSTILE, **more, name: typed}
            )
            assert page.status_code == 422
            assert sentence in problem(page, name)
            assert field(page, name) == typed.strip()
            assert "Enter it again" in shown(page)
            assert "s3cret-typed" not in page.text
            assert "<script>x" not in page.text
    assert count(bot) == 1
    assert stored(bot, webhook) == before


@pytest.mark.parametrize("secret", ["", "whsec_short", "fernet:x"])
async def test_invalid_secret_is_rejected(bridge_url: str, bot: Bot, secret: str) -> None:
    webhook = add_crm(bot, secret="before")
    async with signed_in(bridge_url) as browser:
        seen = field(await browser.get(f"/console/webhooks/{webhook}/edit"), "seen")
        for path in ("new", f"{webhook}/edit", f"{webhook}/rotate-secret"):
            form = {**FILLED, "secret_choice": "given", "secret": secret, "seen": seen}
            page = await browser.post(f"/console/webhooks/{path}", data=form)
            assert page.status_code == 422, path
            assert "Enter a secret" in shown(page)
    assert secrets_of(bot, webhook) == ["before", None]
    assert count(bot) == 1


async def test_forbidden_url_is_rejected_with_the_reason(bridge_url: str, bot: Bot) -> None:
    async def refuse(url: str) -> str | None:
        return f"is not public <b>{url}</b>"

    async with signed_in(bridge_url, url_refusal=refuse) as browser:
        page = await browser.post("/console/webhooks/new", data=FILLED)
        assert page.status_code == 422
        assert "is not public &lt;b&gt;https://crm" in page.text
        # The other fields can still be changed.
        webhook = add_crm(bot)
        edit = f"/console/webhooks/{webhook}/edit"
        seen = field(await browser.get(edit), "seen")
        form = {**FILLED, "event_type": "*", "name": "other", "secret_choice": "keep", "seen": seen}
        assert (await browser.post(edit, data=form)).status_code == 303
        assert stored(bot, webhook)["name"] == "other"


async def test_event_types_are_suggested_with_groups(bridge_url: str) -> None:
    async with signed_in(bridge_url) as browser:
        page = await browser.get("/console/webhooks/new")
    options = re.findall(r'<option value="([^"]+)">', page.text)
    assert {"*", "ticket.*", "ticket.created", "user.created", "webhook.*"} <= set(options)
    assert not [option for option in options if option.startswith("note")]


@pytest.mark.parametrize(
    ("language", "question"), [("en", "Did you mean:"), ("ru", "Возможно, имелось в виду:")]
)
async def test_event_type_that_nothing_makes_gets_a_notice(
    bridge_url: str, bot: Bot, language: str, question: str
) -> None:
    async with signed_in(bridge_url) as browser:
        browser.headers["Accept-Language"] = language
        form = {**FILLED, "event_type": "paymnt.completed", "secret_choice": "generate"}
        made = await browser.post("/console/webhooks/new", data=form)
        assert made.status_code == 201
        [(webhook,)] = bot.execute("select id from bridge.webhooks").fetchall()
        page = await browser.get(f"/console/webhooks/{webhook}")
        for each in made, page:
            assert f"{question} <code>payment.completed</code>" in each.text
        bot.execute("update bridge.webhooks set event_type = 'shipment.sent'")
        assert "bridge.emit()" in (await browser.get(f"/console/webhooks/{webhook}")).text
        bot.execute("update bridge.webhooks set event_type = 'payment.*'")
        page = await browser.get(f"/console/webhooks/{webhook}")
        assert question not in page.text
        assert "bridge.emit()" not in page.text


# --- editing


async def test_only_changed_fields_are_saved(bridge_url: str, bot: Bot) -> None:
    webhook = add_crm(bot, secret="s", filter="$.a == 1", rate_per_second=2, retry_schedule=[0, 5])
    bot.execute("truncate bridge.audit_log")
    async with signed_in(bridge_url) as browser:
        edit = f"/console/webhooks/{webhook}/edit"
        page = await browser.get(edit)
        assert "<details open>" in page.text
        form = {
            **FILLED,
            **{name: field(page, name) for name in ("filter", "rate_per_second", "seen")},
            "event_type": "*",
            "secret_choice": "keep",
            "retry_schedule": "",
            "name": "renamed",
        }
        assert (await browser.post(edit, data=form)).status_code == 303
        assert "Saved." in shown(await browser.get(f"/console/webhooks/{webhook}?done=changed"))
        [(changes, via)] = bot.execute("select changes, via from bridge.audit_log").fetchall()
        assert changes.keys() == {"name", "retry_schedule"}
        assert via == "console"
        # Likewise for the removal of the secret.
        form |= {"seen": field(await browser.get(edit), "seen"), "secret_choice": "none"}
        assert (await browser.post(edit, data=form)).status_code == 303
    assert secrets_of(bot, webhook) == [None, None]


@pytest.mark.parametrize(
    "meanwhile",
    [
        "update bridge.webhooks set name = 'theirs', updated_at = now()",
        "update bridge.webhooks set is_active = false, disabled_reason = '410'",
    ],
    ids=["another admin", "the bridge"],
)
async def test_concurrent_change_is_not_overwritten(
    bridge_url: str, bot: Bot, meanwhile: str
) -> None:
    webhook = add_crm(bot)
    async with signed_in(bridge_url) as browser:
        edit = f"/console/webhooks/{webhook}/edit"
        form = {
            **FILLED,
            "seen": field(await browser.get(edit), "seen"),
            "name": "mine",
            "secret_choice": "keep",
        }
        bot.execute(meanwhile.encode())
        before = stored(bot, webhook)
        page = await browser.post(edit, data=form)
        assert page.status_code == 409
        assert "has changed since" in shown(page)
        assert field(page, "name") == "mine"
        assert stored(bot, webhook) == before
        # Submitting again overwrites.
        form["seen"] = field(page, "seen")
        assert (await browser.post(edit, data=form)).status_code == 303
        assert stored(bot, webhook)["name"] == "mine"


async def test_webhook_is_paused_resumed_disabled_and_deleted(bridge_url: str, bot: Bot) -> None:
    webhook = add_crm(bot)
    add_pending(bot, webhook)
    bot.execute("truncate bridge.audit_log")
    async with signed_in(bridge_url) as browser:
        path = f"/console/webhooks/{webhook}"
        for action, done, state, words in (
            ("pause", "paused", "paused", "All deliveries, new ones included, wait"),
            ("resume", "resumed", "delivering", "Resumed"),
            ("switch-off", "switched-off", "off", "The webhook is disabled"),
            ("switch-on", "switched-on", "delivering", "Enabled."),
        ):
            answer = await browser.post(f"{path}/{action}")
            assert answer.status_code == 303
            # Relative to a page two levels deeper.
            assert answer.headers["Location"] == f"../../webhooks/{webhook}?done={done}"
            page = await browser.get(f"{path}?done={done}")
            assert f">{state}</span>" in page.text
            assert words in shown(page)
        slashed = await browser.post(f"{path}/pause/")
        assert slashed.headers["Location"] == f"../../../webhooks/{webhook}?done=paused"
        question = await browser.get(f"{path}/delete")
        assert re.search(r"Pending 1 ", shown(question))
        deleted = await browser.post(f"{path}/delete")
        assert deleted.headers["Location"] == "../../webhooks?done=deleted"
        assert (await browser.get(path)).status_code == 404
        assert "was deleted" in shown(await browser.get("/console/webhooks?done=deleted"))
    rows = bot.execute("select distinct via from bridge.audit_log").fetchall()
    assert rows == [("console",)]
    assert count(bot) == 0


async def test_unknown_notice_is_not_shown(bridge_url: str, bot: Bot) -> None:
    webhook = add_crm(bot)
    async with signed_in(bridge_url) as browser:
        for path in ("/console/webhooks", f"/console/webhooks/{webhook}"):
            page = await browser.get(path, params={"done": "You have won"})
            assert page.status_code == 200
            assert "You have won" not in page.text


async def test_rotated_secret_keeps_signing_for_a_day(bridge_url: str, bot: Bot) -> None:
    webhook = add_crm(bot, secret="the-first")
    async with signed_in(bridge_url) as browser:
        path = f"/console/webhooks/{webhook}"
        made = await browser.post(f"{path}/rotate-secret", data={"secret_choice": "generate"})
        assert made.status_code == 200
        [secret] = re.findall(r'<code id="secret">([^<]+)</code>', made.text)
        assert secrets_of(bot, webhook) == [unescape(secret), "the-first"]
        assert "also signed with the old secret" in shown(made)
        page = await browser.get(path)
        assert secret not in page.text
        assert "Rotating again ends it at once" in shown(page)
        given = await browser.post(
            f"{path}/rotate-secret", data={"secret_choice": "given", "secret": "my own"}
        )
        assert given.status_code == 303
        assert secrets_of(bot, webhook) == ["my own", unescape(secret)]
        for page in (made, given, await browser.get(f"{path}?done=rotated")):
            assert "the-first" not in page.text
            assert "my own" not in page.text
