"""The health figures and test requests of a webhook's console page."""

import re
from html import unescape
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from bridge.assets import query
from bridge.database.pool import Row
from bridge.web.console.webhooks import LOOKED_AT
from bridge.webhooks.trial import Trial
from tests.integration.calling import (
    Bot,
    add_finished,
    add_pending,
)
from tests.integration.console_pages import HOSTILE, add_crm, shown, signed_in


async def test_response_to_a_test_is_escaped(bridge_url: str, bot: Bot) -> None:
    webhook = add_crm(bot)
    answers = [
        Trial(200, f'{{"a": "{HOSTILE[:2]}<b>"}}'.replace('""', '"'), None, 0.0123),
        Trial(500, f"\u202e{HOSTILE}" * 10, "HTTP 500", 1.5),
        Trial(None, None, "cannot be reached: <b>refused</b>", 0.1),
    ]
    tried = []

    async def send(row: Row) -> Trial:
        tried.append(row["id"])
        return answers[len(tried) - 1]

    async with signed_in(bridge_url, send_trial=send) as browser:
        path = f"/console/webhooks/{webhook}/test"
        page = await browser.post(path)
        assert page.status_code == 200
        assert "The receiver accepted the test" in shown(page)
        assert "12 ms" in shown(page)
        # The page of a POST does not refresh itself.
        assert "data-refresh-seconds" not in page.text
        page = await browser.post(path)
        assert "The receiver rejected the test" in shown(page)
        assert f"\u202e{HOSTILE}" * 10 in unescape(page.text)
        page = await browser.post(path)
        assert "cannot be reached: &lt;b&gt;refused" in page.text
        assert "<script>x" not in page.text
    assert tried == [webhook] * 3


@pytest.mark.parametrize(
    ("columns", "state", "words"),
    [
        ({}, "delivering", "No deliveries yet"),
        ({"last_triggered_at": "now"}, "delivering", "Healthy"),
        ({"failing_since": "now"}, "delivering", "will be retried on schedule"),
        ({"probe_at": "now", "failing_since": "now"}, "failing", "Only failures since"),
        ({"probe_at": "now"}, "failing", "asked us to slow down"),
        ({"paused_at": "now"}, "paused", "Paused since"),
        ({"is_active": False}, "off", "The webhook is disabled"),
        (
            {"is_active": False, "disabled_reason": "410 <b>Gone</b>"},
            "disabled",
            "Disabled by the bridge: 410 <b>Gone</b> . Fix the receiver",
        ),
    ],
)
async def test_each_state_explains_itself(
    bridge_url: str, bot: Bot, columns: dict[str, object], state: str, words: str
) -> None:
    webhook = add_crm(bot, **columns)
    async with signed_in(bridge_url) as browser:
        page = await browser.get(f"/console/webhooks/{webhook}")
        listed = await browser.get("/console/webhooks")
    assert f">{state}</span>" in page.text
    assert f">{state}</span>" in listed.text
    assert words in shown(page)
    assert "<b>" not in page.text
    [(known,)] = bot.execute(
        "select state from bridge.webhook_health where webhook_id = %s", [webhook]
    ).fetchall()
    assert known == state


def add_attempts(bot: Bot, webhook: int, number: int, ages_minutes: str) -> None:
    """Log deliveries, every second one with two attempts, at ages given as SQL over n."""
    bot.execute(
        f"""with delivery as (
                select nextval('bridge.delivery_queue_id_seq') as id, n,
                       now() - make_interval(mins => ({ages_minutes})::integer) as at
                from generate_series(1, {number}) n
            ), logged as (
                insert into bridge.delivery_log
                    (id, webhook_id, event_id, event_recorded_at, event_type, status,
                     attempt_number, created_at, finished_at, committed_at, acknowledged_at)
                select id, {webhook}, n, at, 'a',
                       case when n % 5 = 0 then 'failed' else 'success' end,
                       1, at, at, at - n * interval '1 ms',
                       case when n % 5 <> 0 then at end
                from delivery
            )
            insert into bridge.delivery_attempts
                (delivery_id, webhook_id, attempt_number, started_at, finished_at, error_message)
            select id, {webhook}, attempt, at - n * interval '2 ms', at,
                   case when n % 5 = 0 or attempt < attempts then 'HTTP 500' end
            from delivery, lateral (select 1 + n % 2 as attempts) as a,
                 generate_series(1, attempts) as attempt""".encode()
    )


def figures(bot: Bot, webhook: int, looked_at: int) -> dict[str, Any]:
    with psycopg.RawCursor(bot, row_factory=dict_row) as cursor:
        row = cursor.execute(query("webhook_figures").encode(), [webhook, looked_at]).fetchone()
    assert row is not None
    return dict(row)


async def test_figures_match_webhook_health(bridge_url: str, bot: Bot) -> None:
    bot.execute("select bridge.create_partitions((now() at time zone 'UTC')::date - 2, 5)")
    webhook, other = add_crm(bot), add_crm(bot)
    # Older deliveries have lower ids: 0 to 50 hours, newest last.
    add_attempts(bot, webhook, 300, "10 * (300 - n)")
    add_attempts(bot, other, 10, "1")
    # A waiting delivery has also been tried; it is older than all others.
    waiting = add_pending(bot, webhook, attempts=1)
    bot.execute(
        """insert into bridge.delivery_attempts
               (delivery_id, webhook_id, attempt_number, started_at, finished_at, error_message)
           values (%s, %s, 1, now() - interval '3 s', now(), 'HTTP 500')""",
        [waiting, webhook],
    )
    whole = figures(bot, webhook, LOOKED_AT)
    with bot.cursor(row_factory=dict_row) as cursor:
        health = cursor.execute(
            "select * from bridge.webhook_health where webhook_id = %s", [webhook]
        ).fetchone()
    assert health is not None
    assert whole.pop("since") is None
    assert whole.pop("is_brief") is False
    assert whole["attempts_day"] > whole["attempts_hour"] > 1
    for name, value in whole.items():
        assert value == pytest.approx(float(health[name])), name
    part = figures(bot, webhook, 20)
    assert part["since"] is not None
    assert part["is_brief"] is False
    assert part["attempts_hour"] == whole["attempts_hour"]
    assert 1 < part["attempts_day"] < whole["attempts_day"]
    assert figures(bot, webhook, 3)["is_brief"] is True
    async with signed_in(bridge_url) as browser:
        page = await browser.get(f"/console/webhooks/{webhook}")
    assert "Last hour" in shown(page)
    assert "Deliveries counted" not in shown(page)


async def test_figures_of_many_deliveries_name_their_start(bridge_url: str, bot: Bot) -> None:
    webhook = add_crm(bot)
    # All within minutes, so not even one hour is complete.
    add_attempts(bot, webhook, 2 * LOOKED_AT, "2 - n / 2000")
    async with signed_in(bridge_url) as browser:
        page = await browser.get(f"/console/webhooks/{webhook}")
    assert "Last hour" not in shown(page)
    assert "these figures cover the newest. Deliveries counted: 2 000" in shown(page)


async def test_webhook_page_links_its_deliveries(bridge_url: str, bot: Bot) -> None:
    webhook, other = add_crm(bot), add_crm(bot)
    async with signed_in(bridge_url) as browser:
        path = f"/console/webhooks/{webhook}"
        page = await browser.get(path)
        assert "None yet" in shown(page)
        assert "redeliver" not in page.text
        made = [add_finished(bot, webhook, "success") for _ in range(10)]
        made += [add_finished(bot, webhook, "failed"), add_pending(bot, webhook)]
        theirs = add_pending(bot, other)
        page = await browser.get(path)
    numbers = [int(each) for each in re.findall(r'href="\.\./deliveries/(\d+)"', page.text)]
    assert numbers == sorted(made, reverse=True)[:10]
    assert theirs not in numbers
    assert f'href="../deliveries?webhook={webhook}"' in page.text
    assert f'href="../deliveries/redeliver?webhook={webhook}"' in page.text
