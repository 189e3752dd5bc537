"""The console's delivery pages without a browser: filters, details and redelivery."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from bridge.database.pool import open_database
from bridge.web.console import deliveries
from bridge.web.console.figures import MOST_SHOWN
from tests.integration.calling import (
    MAX_BIGINT,
    TOKEN,
    Bot,
    add_finished,
    add_pending,
    add_token,
)
from tests.integration.console_pages import csrf_of, sign_in, visiting
from tests.webhook_rows import add_failures, add_webhook

LIST = "/console/deliveries"
MANY = "/console/deliveries/redeliver"
CHOSEN = "/console/deliveries/redeliver-chosen"
SECRET = "a-secret-of-the-webhook"
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(1)</script>'


def shown(page: httpx.Response) -> list[int]:
    """Return the ids of the deliveries in a list."""
    assert page.status_code == 200, page.text
    return [int(number) for number in re.findall(r'class="whole" href="[^"]*?(\d+)"', page.text)]


def link(page: httpx.Response, text: str) -> str:
    """Return the target of a link."""
    found = re.search(rf'<a [^>]*href="([^"]*)"[^>]*>{text}</a>', page.text)
    assert found, page.text
    return found[1].replace("&amp;", "&")


def logged(bot: Bot, webhook: int, number: int, **columns: object) -> int:
    """Insert a finished delivery into the log; return its id."""
    columns = {
        "id": number,
        "webhook_id": webhook,
        "event_id": number,
        "event_recorded_at": datetime.now(UTC),
        "event_type": "user.created",
        "status": "success",
        "attempt_number": 1,
        "created_at": datetime.now(UTC),
        **columns,
    }
    names, places = ", ".join(columns), ", ".join(f"%({name})s" for name in columns)
    bot.execute(f"insert into bridge.delivery_log ({names}) values ({places})".encode(), columns)
    return number


def audited(bot: Bot) -> list[tuple[Any, ...]]:
    return bot.execute(
        "select action, target_id, via, actor from bridge.audit_log"
        " where action like '%.redelivered' order by id"
    ).fetchall()


# --- the list


async def test_list_is_filtered_by_the_query(bridge_url: str, bot: Bot) -> None:
    first, second = (add_webhook(bot, f"https://{name}.example/") for name in "ab")
    waiting = add_pending(bot, first)
    done = add_finished(bot, first, "success")
    failed = add_finished(bot, second, "failed")
    bot.execute(
        "update bridge.delivery_log set event_type = 'ticket.reply.added' where id = %s", [failed]
    )
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        for query, expected in (
            ("", [failed, done, waiting]),
            ("status=pending", [waiting]),
            ("status=success", [done]),
            ("status=failed", [failed]),
            (f"webhook={first}", [done, waiting]),
            (f"webhook={first}&status=failed", []),
            (f"webhook={second}&status=failed&type=ticket.*", [failed]),
            ("type=user.created", [done, waiting]),
            ("type=ticket.*", [failed]),
            ("type=ticket.reply.*", [failed]),
            ("type=ticket.reply", []),
            ("type=ticket", []),
            ("type=*", [failed, done, waiting]),
            (f"before_id={failed}", [done, waiting]),
            ("webhook=999", []),
            ("status=&webhook=&type=&since=&until=", [failed, done, waiting]),
        ):
            assert shown(await browser.get(f"{LIST}?{query}")) == expected, query
        nothing = await browser.get(f"{LIST}?status=failed&webhook={first}")
        assert "No matching deliveries" in nothing.text


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("status=lost", None),
        ("webhook=x", "No such webhook."),
        ("type=a b", "Enter a type or a group"),
        ("type=*.created", "Enter a type or a group"),
        ("since=yesterday", "Enter a date and a time."),
        ("until=12", "Enter a date and a time."),
        ("before_id=0", None),
    ],
)
async def test_invalid_filter_is_reported_at_its_field(
    bridge_url: str, query: str, problem: str | None
) -> None:
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        page = await browser.get(f"{LIST}?{query}")
        assert page.status_code == 422
        assert problem is None or problem in page.text


async def test_pages_of_deliveries_have_no_gap(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "SHOWN", 2)
    webhook = add_webhook(bot, "https://a.example/")
    ids = [add_finished(bot, webhook, each) for each in ("success", "failed") * 2]
    ids.append(add_pending(bot, webhook))
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        seen, path = [], f"{LIST}?webhook={webhook}"
        for _ in range(3):
            page = await browser.get(path)
            seen += shown(page)
            if "Older" in page.text:
                path = f"/console/{link(page, 'Older')}"
        assert seen == ids[::-1]
        assert "Older" not in page.text
        assert shown(await browser.get(f"/console/{link(page, 'Newest')}")) == ids[:-3:-1]


async def test_time_range_is_found_by_ids(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "https://a.example/")
    noon = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
    # With gaps, as sequences leave them, and some still queued.
    numbers = [3, 4, 10, 500, 501, 90_000]
    for minute, number in enumerate(numbers):
        logged(
            bot,
            webhook,
            number,
            created_at=noon + timedelta(minutes=minute),
            status="failed" if number % 2 else "success",
        )
    bot.execute(
        """insert into bridge.delivery_queue
               (id, webhook_id, event_id, event_recorded_at, event_type, created_at)
           overriding system value values (100000, %s, 1, now(), 'user.created', %s)""",
        [webhook, noon + timedelta(minutes=6)],
    )
    numbers.append(100_000)
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        for since in range(-1, 8):
            for until in range(since, 9):
                page = await browser.get(
                    LIST,
                    params={
                        "since": (noon + timedelta(minutes=since)).isoformat(),
                        "until": f"{noon + timedelta(minutes=until):%Y-%m-%dT%H:%M:%S}",
                    },
                )
                assert shown(page) == numbers[max(since, 0) : max(until, 0)][::-1]


async def test_time_before_all_deliveries_finds_the_first(
    bridge_url: str,
) -> None:
    async with open_database(bridge_url) as database:
        [row] = await database.fetch("first_delivery_since", datetime.now(UTC))
    assert row["from_id"] == 1


async def test_type_filter_searches_in_bounded_steps(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "LOOKED_AT", 3)
    webhook = add_webhook(bot, "https://a.example/")
    wanted = logged(bot, webhook, 1, event_type="ticket.created")
    for number in range(2, 9):
        logged(bot, webhook, number)
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        path, looks = f"{LIST}?type=ticket.*", 0
        while not shown(page := await browser.get(path)):
            assert "Deliveries searched: 3;" in re.sub(r"\s+", " ", page.text)
            assert "No matching deliveries" not in page.text
            path, looks = f"/console/{link(page, 'Search further back')}", looks + 1
        assert (shown(page), looks) == ([wanted], 2)
        assert "Search further back" not in page.text


async def test_many_webhooks_are_chosen_by_id(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "WEBHOOKS_TO_CHOOSE_FROM", 1)
    webhook = add_finished(bot, add_webhook(bot, "https://a.example/"), "success")
    add_webhook(bot, "https://b.example/")
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        page = await browser.get(LIST)
        assert '<input id="webhook"' in page.text
        assert '<select id="webhook"' not in page.text
        assert shown(page) == [webhook]


# --- one delivery


async def test_delivery_shows_timeline_and_attempts_without_secrets(
    bridge_url: str, bot: Bot
) -> None:
    webhook = add_webhook(
        bot,
        "https://a.example/in?x=1",
        name=HOSTILE,
        secret=SECRET,
        previous_secret="before-" + SECRET,
        previous_secret_expires_at=datetime.now(UTC) + timedelta(hours=1),
    )
    delivery = add_finished(bot, webhook, "failed")
    for number, failure, status in ((1, "timeout_answer", None), (2, "http_5xx", 500)):
        bot.execute(
            """insert into bridge.delivery_attempts
                   (delivery_id, webhook_id, attempt_number, started_at, finished_at, failure,
                    response_status, response_body, error_message)
               values (%s, %s, %s, now(), now() + interval '250 ms', %s, %s, %s, %s)""",
            [delivery, webhook, number, failure, status, HOSTILE, f"why {number}: {HOSTILE}"],
        )
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        page = await browser.get(f"{LIST}/{delivery}")
        listed = await browser.get(LIST)
    assert page.status_code == 200
    text = re.sub(r"<wbr>|<bdi>|</bdi>", "", page.text)
    for expected in (
        f"<code>evt_1_wh_{webhook}</code>",
        "<code>X-Webhook-Signature</code>",
        "<code>X-Webhook-Signature-Previous</code>",
        "new for each attempt",
        "https://a.example/in?x=1",
        "timeout: response",
        "<code>HTTP 500</code>",
        "why 1: ",
        "250\u202fms",
        "all attempts have failed",
        "&#34;user_id&#34;: 1",
        "<code>Content-Length</code>",
    ):
        assert expected in text, expected
    assert text.index("why 2: ") < text.index("why 1: ")
    for shown_page in (page, listed):
        assert SECRET not in shown_page.text
        assert "<script>alert" not in shown_page.text
        assert "<img src=x" not in shown_page.text
        assert "&lt;script&gt;" in shown_page.text


@pytest.mark.parametrize("nesting", [200, 600, 3_000])
async def test_deeply_nested_event_breaks_no_page(bridge_url: str, bot: Bot, nesting: int) -> None:
    payload = "[" * nesting + "1" + "]" * nesting
    webhook = add_webhook(bot, "https://receiver.example/")
    add_pending(bot, webhook)
    deep = add_pending(bot, webhook)
    bot.execute(
        "update bridge.events e set payload = %s from bridge.delivery_queue q"
        " where e.id = q.event_id and q.id = %s",
        [payload, deep],
    )
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        for path in (f"/console/webhooks/{webhook}", LIST, f"{LIST}/{deep}"):
            page = await browser.get(path)
            assert page.status_code == 200
            assert f"Delivery {deep}" in page.text or f'deliveries/{deep}"' in page.text
        assert "[" * 50 in re.sub(r"\s", "", page.text)
        asked = {"X-API-Key": TOKEN}
        one = await browser.get(f"/deliveries/{deep}", headers=asked)
        assert one.json()["payload"] == payload
        listed = await browser.get(f"/webhooks/{webhook}/deliveries", headers=asked)
        events = await browser.get("/events?since=0", headers=asked)
        for answer in (listed, events):
            shown_payloads = [each["payload"] for each in answer.json()["items"]]
            assert sorted(map(str, shown_payloads)) == sorted([payload, "{'user_id': 1}"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("is_active = false", "the webhook is disabled"),
        ("paused_at = now()", "the webhook is paused"),
        ("probe_at = now() + interval '1 hour'", "The receiver is failing"),
        ("name = name", "Next attempt:"),
    ],
)
async def test_delivery_says_what_it_waits_for(
    bridge_url: str, bot: Bot, change: str, said: str
) -> None:
    webhook = add_webhook(bot, "https://a.example/")
    delivery = add_pending(bot, webhook, attempts=1)
    bot.execute(f"update bridge.webhooks set {change}".encode())
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        page = await browser.get(f"{LIST}/{delivery}")
        assert said in page.text
        assert "Try now" in page.text
        fresh = await browser.get(f"{LIST}/{add_pending(bot, webhook)}")
        assert ("next in the queue" in fresh.text) is (change == "name = name")


async def test_delivery_without_webhook_or_event_offers_no_resend(
    bridge_url: str, bot: Bot
) -> None:
    gone, stays = (add_webhook(bot, "https://a.example/") for _ in range(2))
    of_gone, of_event = add_finished(bot, gone, "failed"), add_finished(bot, stays, "failed")
    bot.execute("delete from bridge.webhooks where id = %s", [gone])
    bot.execute("delete from bridge.events where id = 2")
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        for delivery, why in (
            (of_gone, "its webhook was deleted."),
            (of_event, "its event is no longer in the log."),
        ):
            page = await browser.get(f"{LIST}/{delivery}")
            assert f"It cannot be resent: {why}" in page.text
            assert f"{delivery}/redeliver" not in page.text
            sent = await browser.post(f"{LIST}/{delivery}/redeliver", data={"csrf": csrf_of(page)})
            assert sent.headers["Location"] == f"../../deliveries/{delivery}?done=gone"
            assert "It cannot be resent" in (await browser.get(f"{LIST}/{delivery}?done=gone")).text
        counted = await browser.post(
            CHOSEN, data={"csrf": csrf_of(page), "delivery": [of_gone, of_event]}
        )
        assert "None of them can be resent" in counted.text
    assert audited(bot) == []


@pytest.mark.parametrize("delivery", ["0", "7", "-1", "x", str(MAX_BIGINT + 1), "9" * 400])
async def test_missing_delivery_is_404(bridge_url: str, delivery: str) -> None:
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        csrf = csrf_of(await browser.get(LIST))
        assert (await browser.get(f"{LIST}/{delivery}")).status_code == 404
        answer = await browser.post(f"{LIST}/{delivery}/redeliver", data={"csrf": csrf})
        assert answer.status_code == 404


async def test_unknown_notices_are_not_shown(bridge_url: str, bot: Bot) -> None:
    delivery = add_finished(bot, add_webhook(bot, "https://a.example/"), "success")
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        for path in (LIST, f"{LIST}/{delivery}"):
            page = await browser.get(path, params={"done": "Your account is locked"})
            assert page.status_code == 200
            assert "account is locked" not in page.text


async def test_huge_payload_is_cut_and_downloaded(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "https://a.example/")
    delivery = add_pending(bot, webhook)
    bot.execute("update bridge.events set payload = jsonb_build_array(repeat('w', 5000000))")
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        page = await browser.get(f"{LIST}/{delivery}")
        assert page.status_code == 200
        assert len(page.content) < MOST_SHOWN + 20_000
        whole = httpx.URL(f"http://bridge{LIST}/{delivery}").join(
            link(page, "Download the whole payload")
        )
        assert whole.raw_path.decode() == f"{LIST}/{delivery}/payload"
        downloaded = await browser.get(whole)
        assert downloaded.json() == ["w" * 5_000_000]
        assert "attachment" in downloaded.headers["Content-Disposition"]
        assert (await browser.get(f"{LIST}/{delivery + 1}/payload")).status_code == 404
        for path in f"/console/webhooks/{webhook}", LIST:
            listed = await browser.get(path)
            assert f">{delivery}</a>" in listed.text
            assert "www" not in listed.text


# --- redelivery


async def test_redelivery_is_audited(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "https://a.example/")
    done, waiting = add_finished(bot, webhook, "success"), add_pending(bot, webhook)
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        for delivery, word in ((done, "again"), (waiting, "at-once")):
            page = await browser.get(f"{LIST}/{delivery}")
            sent = await browser.post(f"{LIST}/{delivery}/redeliver", data={"csrf": csrf_of(page)})
            assert sent.status_code == 303
            target = httpx.URL(f"http://bridge{LIST}/{delivery}/redeliver").join(
                sent.headers["Location"]
            )
            assert target.raw_path.decode() == f"{LIST}/{delivery}?done={word}"
            assert 'role="status"' in (await browser.get(target)).text
    rows = bot.execute("select id from bridge.delivery_queue order by id").fetchall()
    assert rows == [(done,), (waiting,)]
    assert audited(bot) == [
        ("delivery.redelivered", done, "console", "BRIDGE_TOKEN"),
        ("delivery.redelivered", waiting, "console", "BRIDGE_TOKEN"),
    ]


@pytest.mark.parametrize("half", ["0.5", "0,5"])
async def test_failed_deliveries_are_counted_before_resending(
    bridge_url: str, bot: Bot, half: str
) -> None:
    webhook = add_webhook(bot, "https://a.example/")
    failed = [add_finished(bot, webhook, "failed") for _ in range(3)]
    add_finished(bot, webhook, "success")
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        page = await browser.get(MANY, params={"webhook": webhook})
        assert f'<option value="{webhook}" selected>' in page.text
        fields = {
            "csrf": csrf_of(page),
            "webhook": webhook,
            "since": "2020-01-01T00:00",
            "until": "",
            "per_second": half,
        }
        counted = await browser.post(MANY, data=fields)
        assert counted.status_code == 200
        assert "would be resent: 3<" in counted.text
        assert "6.0\u202fs" in counted.text
        assert bot.execute("select from bridge.delivery_queue").fetchall() == []
        assert audited(bot) == []
        # The confirmation form repeats exactly the counted selection.
        hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', counted.text))
        assert hidden.keys() == {"csrf", "step", "webhook", "since", "until", "per_second"}
        sent = await browser.post(MANY, data=hidden)
        assert sent.status_code == 303
        query = parse_qs(urlsplit(sent.headers["Location"]).query)
        assert query == {"webhook": [str(webhook)], "status": ["pending"], "done": ["failed"]}
        target = httpx.URL(f"http://bridge{MANY}").join(sent.headers["Location"])
        after = await browser.get(target)
        assert shown(after) == failed[::-1]
        assert "resent one after another" in after.text
        none = await browser.post(MANY, data=fields)
        assert "No delivery failed in this period" in none.text
    assert audited(bot) == [("webhook.redelivered", webhook, "console", "BRIDGE_TOKEN")]


async def test_large_redelivery_is_shown_and_stopped(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "https://a.example/")
    add_failures(bot, webhook, 1005)
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        page = await browser.get(MANY, params={"webhook": webhook})
        assert "Last resent period" not in page.text
        fields = {
            "csrf": csrf_of(page),
            "webhook": webhook,
            "since": "2020-01-01T00:00",
            "per_second": "20",
            "step": "send",
        }
        sent = await browser.post(MANY, data=fields)
        assert sent.headers["Location"] == f"../deliveries/redeliver?webhook={webhook}"
        shown = await browser.get(MANY, params={"webhook": webhook})
        assert "1\u202f000 / 1\u202f005" in shown.text
        assert "in progress" in shown.text
        again = await browser.post(MANY, data=fields)
        assert again.status_code == 409
        assert "1\u202f000 / 1\u202f005" in again.text
        cancel = f"{MANY}/{webhook}/cancel"
        assert f'action="..{cancel.removeprefix("/console")}"' in shown.text
        assert (await browser.post(cancel)).status_code == 403
        stopped = await browser.post(cancel, data={"csrf": fields["csrf"]})
        assert stopped.headers["Location"] == f"../../../deliveries/redeliver?webhook={webhook}"
        shown = await browser.get(MANY, params={"webhook": webhook})
        assert "stopped" in shown.text
        assert cancel.removeprefix("/console") not in shown.text


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"webhook": ""}, "No such webhook."),
        ({"webhook": "999"}, "No such webhook."),
        ({"webhook": "x"}, "No such webhook."),
        ({"since": ""}, "Enter a date and a time."),
        ({"since": "0"}, "Enter a date and a time."),
        ({"until": "soon"}, "Enter a date and a time."),
        ({"until": "2019-01-01T00:00"}, "The end must be after the start."),
        ({"per_second": "0"}, "Enter a number from"),
        ({"per_second": "nan"}, "Enter a number from"),
        ({"per_second": HOSTILE}, "Enter a number from"),
    ],
)
async def test_invalid_redelivery_form_keeps_its_input(
    bridge_url: str, bot: Bot, wrong: dict[str, str], problem: str
) -> None:
    webhook = add_webhook(bot, "https://a.example/")
    add_finished(bot, webhook, "failed")
    fields = {
        "webhook": str(webhook),
        "since": "2020-01-01T00:00:00.000Z",
        "until": "",
        "per_second": "7",
    }
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        csrf = csrf_of(await browser.get(MANY))
        answer = await browser.post(MANY, data={"csrf": csrf, "step": "send", **fields, **wrong})
    assert answer.status_code == 422
    assert answer.text.count('aria-invalid="true"') == 1
    assert problem in answer.text
    assert "<img src=x" not in answer.text
    if "per_second" not in wrong:
        assert 'value="7"' in answer.text
    if "since" not in wrong:
        assert 'value="2020-01-01T00:00:00"' in answer.text  # in the format of the field
    assert audited(bot) == []


async def test_selected_deliveries_are_counted_before_resending(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "https://a.example/")
    failed, waiting, other = (
        add_finished(bot, webhook, "failed"),
        add_pending(bot, webhook),
        add_finished(bot, webhook, "failed"),
    )
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        csrf = csrf_of(await browser.get(LIST))
        nothing = await browser.post(CHOSEN, data={"csrf": csrf})
        assert "No delivery selected" in nothing.text
        chosen = {"csrf": csrf, "delivery": [str(failed), str(waiting), "999"]}
        counted = await browser.post(CHOSEN, data=chosen)
        assert "Deliveries that would be sent: 2<" in counted.text
        assert audited(bot) == []
        sent = await browser.post(CHOSEN, data={**chosen, "step": "send"})
        assert sent.headers["Location"] == "../deliveries?done=some"
        rows = bot.execute("select id from bridge.delivery_queue order by id").fetchall()
        assert rows == [(failed,), (waiting,)]
        sent = await browser.post(CHOSEN, data={"csrf": csrf, "step": "send", "delivery": other})
        assert sent.headers["Location"] == "../deliveries?done=chosen"
    assert [row[1:3] for row in audited(bot)] == [
        (failed, "console"),
        (waiting, "console"),
        (other, "console"),
    ]


@pytest.mark.parametrize("chosen", [["1"] * 201, ["x"], ["1_0"], ["1", HOSTILE]])
async def test_too_many_or_invalid_ids_are_rejected(bridge_url: str, chosen: list[str]) -> None:
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        csrf = csrf_of(await browser.get(LIST))
        answer = await browser.post(CHOSEN, data={"csrf": csrf, "delivery": chosen})
        assert answer.status_code == 422
        assert "<img src=x" not in answer.text


# --- permissions


async def test_read_only_token_cannot_resend(bridge_url: str, bot: Bot) -> None:
    delivery = add_finished(bot, add_webhook(bot, "https://a.example/"), "failed")
    add_token(bot, "reader", "webhooks:read")
    async with visiting(bridge_url) as browser:
        await sign_in(browser, "reader")
        for path in (LIST, f"{LIST}/{delivery}"):
            page = await browser.get(path)
            assert page.status_code == 200
            assert "redeliver" not in page.text
            assert 'type="checkbox"' not in page.text
        assert (await browser.get(MANY)).status_code == 403
        for path in (MANY, CHOSEN, f"{LIST}/{delivery}/redeliver"):
            fields = {"csrf": csrf_of(page), "step": "send", "delivery": delivery}
            refused = await browser.post(path, data=fields)
            assert refused.status_code == 403
            assert "webhooks:write" in refused.text
    assert audited(bot) == []


async def test_deliveries_need_session_and_scope(bridge_url: str, bot: Bot) -> None:
    delivery = add_finished(bot, add_webhook(bot, "https://a.example/"), "failed")
    add_token(bot, "events", "events:read")
    async with visiting(bridge_url) as browser:
        for path in (LIST, MANY, f"{LIST}/{delivery}"):
            assert (await browser.get(path)).status_code == 303
        await sign_in(browser, "events")
        for path in (LIST, MANY, f"{LIST}/{delivery}"):
            assert (await browser.get(path)).status_code == 403


async def test_resend_needs_the_csrf_token(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "https://a.example/")
    delivery = add_finished(bot, webhook, "failed")
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        for path in (MANY, CHOSEN, f"{LIST}/{delivery}/redeliver"):
            for csrf in ("", "wrong"):
                fields = {"csrf": csrf, "step": "send", "delivery": delivery, "webhook": webhook}
                assert (await browser.post(path, data=fields)).status_code == 403
    assert audited(bot) == []


async def test_unusable_url_breaks_no_page(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "ftp://a.example/")
    delivery = add_finished(bot, webhook, "failed")
    async with visiting(bridge_url) as browser:
        await sign_in(browser)
        page = await browser.get(f"{LIST}/{delivery}")
        assert page.status_code == 200
        assert "No request can be built" in page.text
        assert TOKEN not in page.text
