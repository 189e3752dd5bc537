"""Every page of the console works with the demo; ``make pictures`` takes the docs' screenshots.

With ``--screenshots``, the demo first runs for a minute. Its activity is then copied to the quarter
of an hour before, so that the charts are full.
"""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.visits import (
    Watch,
    barriers,
    photograph,
    scrolls_sideways,
    sign_in,
    visiting,
)
from tests.docs.test_first_steps import where_everything_is
from tests.system.test_demo import end, start
from tests.waiting import PATIENCE_SECONDS

#: How long the demo works before its picture is taken.
WORK_SECONDS = 60

#: A row for each ten seconds of the quarter of an hour before, after one of those that there are.
REPEAT_THE_PAST = """
    with told as materialized (
        select * from bridge.activity where seconds > 5
    ), first as (
        select min(recorded_at) as recorded_at from bridge.activity
    )
    insert into bridge.activity
    select f.recorded_at - number * interval '10 seconds', t.bridge, t.version, t.seconds, false,
           t.clients, t.in_flight, t.clients_dropped, (t.events_drained * share)::bigint,
           (t.events_streamed * share)::bigint, (t.delivered * share)::bigint,
           (t.retried * share)::bigint, t.failed, t.commit_to_client, t.commit_to_acknowledged
    from first f
    cross join generate_series(1, 96) as number
    cross join lateral (
        select 0.8 + 0.2 * sin(number / 11.0) + 0.05 * sin(number * 1.7)
    ) as s(share)
    cross join lateral (
        select * from told order by md5(number || told.recorded_at::text) limit 1
    ) as t
"""


@pytest.fixture
def shop() -> Iterator[dict[str, str]]:
    """The running demo and its addresses."""
    demo = start()
    try:
        yield where_everything_is(demo)
    finally:
        demo.send_signal(signal.SIGTERM)
        # The second signal stops it at once, without waiting for receivers that are gone.
        time.sleep(0.1)
        demo.send_signal(signal.SIGTERM)
        code, _, errors = end(demo)
    assert (code, errors.count("\n")) == (1, 1), errors


def address(shop: dict[str, str]) -> str:
    return shop["console"].partition("/console")[0]


def database_url(shop: dict[str, str]) -> str:
    """Return the URL from the demo's shell line."""
    shell = f"{shop['shell']} && echo $BRIDGE_DATABASE_URL"
    return subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, check=True
    ).stdout.strip()


def add_a_receiver_that_is_gone(shop: dict[str, str]) -> None:
    """Cause some realistic failures."""
    httpx.post(
        f"{address(shop)}/webhooks",
        headers={"X-API-Key": shop["token"]},
        json={
            "name": "CRM, the old one",
            "url": "http://127.0.0.1:9/hook",
            "event_type": "user.created",
            "description": "To be moved",
            "secret": "not-to-be-guessed",
        },
        timeout=PATIENCE_SECONDS,
        trust_env=False,
    ).raise_for_status()


def test_every_page_works_with_the_demo(
    browser: Browser, shop: dict[str, str], request: pytest.FixtureRequest
) -> None:
    kept = request.config.getoption("--screenshots")
    watch = Watch()

    def keep(name: str, height: int | None = None) -> None:
        if kept is not None:
            directory = request.config.invocation_params.dir / Path(kept)
            photograph(page, directory, name, height, phone=False)

    with (
        visiting(browser, address(shop), watch) as page,
        psycopg.connect(database_url(shop), autocommit=True) as operator,
    ):
        add_a_receiver_that_is_gone(shop)
        if kept is not None:
            time.sleep(WORK_SECONDS)
            operator.execute(REPEAT_THE_PAST)

        def look(path: str, name: str | None = None, *, height: int = 800) -> None:
            page.goto(path)
            page.wait_for_load_state("networkidle" if "events" not in path else "load")
            assert barriers(page) == []
            assert not scrolls_sideways(page)
            if name is not None:
                keep(name, height)

        sign_in(page, shop["token"])
        look("/console", "overview", height=1010)
        page.goto("/console/events")
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        expect(
            page.get_by_label("Events, newest first").get_by_role("listitem").nth(9)
        ).to_be_visible()
        keep("events")
        look("/console/webhooks")
        look("/console/webhooks/1", "webhook", height=1100)
        look("/console/webhooks/new")
        look("/console/deliveries")
        [(failing,)] = operator.execute(
            "select min(d.id) from bridge.webhook_deliveries d where d.webhook_id = 3"
        ).fetchall()
        if failing is not None:
            look(f"/console/deliveries/{failing}", "delivery", height=1100)
        look("/console/tokens")
        look("/console/audit", "changes")
    with visiting(browser, address(shop), watch, locale="ru-RU") as page:
        page.goto("/console")
        page.get_by_label("Токен").fill(shop["token"])
        page.get_by_role("button", name="Войти").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Обзор")
        keep("overview-ru", 1010)
