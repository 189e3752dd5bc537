"""Sign-in, overview and live feed of the console in a browser."""

import re
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Page, expect
from psycopg.types.json import Jsonb

from bridge.access.tokens import hash_token
from tests.browser.visits import (
    OpenPage,
    Photograph,
    Watch,
    barriers,
    looks_right,
    sign_in,
)
from tests.system.processes import TOKEN, Bridge

HOSTILE = '"><script>document.title="pwned"</script><img src=x onerror=\'document.title="pwned"\'>'


@pytest.fixture
def bridge_settings() -> dict[str, Any]:
    return {"failed_logins_per_minute": 600}


def emit(database: psycopg.Connection[Any], event_type: str, payload: object) -> None:
    """Commit a row that becomes an event."""
    database.execute("select bridge.emit(%s, %s)", [event_type, Jsonb(payload)])


def test_reader_signs_in_browses_and_signs_out(
    page: Page, watch: Watch, photograph: Photograph
) -> None:
    page.goto("/console/events")
    expect(page).to_have_title("Sign in · pgbridge")
    assert barriers(page) == []
    page.keyboard.type("wrong")  # the field has the focus
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("unknown")
    watch.expected("status of 401")
    photograph(page, "sign-in")
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/events")  # the requested page
    assert page.evaluate("document.cookie") == ""

    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    expect(page.get_by_role("link", name="Overview")).to_have_attribute("aria-current", "page")
    expect(page.get_by_text("/s", exact=True).first).to_be_visible()
    looks_right(page)

    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_title("Sign in · pgbridge")
    page.go_back()
    expect(page).to_have_title("Sign in · pgbridge")  # not the cached page


def test_feed_shows_each_event_once(
    open_page: OpenPage, bridge: Bridge, bot: psycopg.Connection[Any], watch: Watch
) -> None:
    page = open_page()
    emit(bot, "ticket.created", {"title": "before the page was opened"})
    sign_in(page, path="/console/events")
    rows = page.get_by_label("Events, newest first").get_by_role("listitem")
    expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    expect(rows).to_have_count(1)
    emit(bot, "user.created", {"username": HOSTILE, "name": "\u202eevil", "long": "x" * 5_000})
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("user.created")
    rows.first.click()
    expect(rows.first.locator("pre")).to_contain_text(HOSTILE.replace('"', '\\"'))
    looks_right(page)

    # Events that arrive while it is paused are not lost.
    page.get_by_role("button", name="Pause").click()
    for number in range(3):
        emit(bot, "ticket.created", {"title": f"number {number}"})
    expect(page.get_by_text("Waiting events: 3")).to_be_visible()
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Continue").click()
    expect(rows).to_have_count(5)
    expect(rows.first).to_contain_text("number 2")

    # The text filter hides events; choosing types changes the subscription.
    page.get_by_label("Text in the payload").fill("number 1")
    expect(rows.filter(visible=True)).to_have_count(1)
    page.get_by_label("Text in the payload").fill("")
    types = page.get_by_label("Types")
    types.fill("ticket.*")
    types.press("Enter")
    emit(bot, "user.created", {})
    emit(bot, "ticket.created", {"title": "the last"})
    expect(rows.first).to_contain_text("the last")
    expect(rows).to_have_count(6)
    ids = [text.split()[0] for text in rows.all_inner_texts()]
    assert len(set(ids)) == len(ids)

    assert page.title() == "Events · pgbridge"


def test_feed_resumes_after_a_lost_connection(
    page: Page, bot: psycopg.Connection[Any], watch: Watch
) -> None:
    sign_in(page, path="/console/events")
    rows = page.get_by_label("Events, newest first").get_by_role("listitem")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    emit(bot, "ticket.created", {"title": "first"})
    expect(rows).to_have_count(1)
    page.context.set_offline(True)
    page.evaluate("dispatchEvent(new Event('pagehide'))")  # closes the stream, as phones do
    expect(page.get_by_text("Closed")).to_be_visible()
    emit(bot, "ticket.created", {"title": "while it was away"})
    page.context.set_offline(False)
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    page.wait_for_load_state()
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("while it was away")


def test_feed_survives_a_new_sign_in_in_another_tab(
    page: Page, bot: psycopg.Connection[Any], watch: Watch
) -> None:
    sign_in(page, path="/console/events")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    beside = page.context.new_page()
    beside.goto("/console/sign-in")
    beside.get_by_label("Token").fill(TOKEN)
    beside.get_by_role("button", name="Sign in").click()
    beside.wait_for_url("**/console")
    # Its stream ends; a new one needs a form of the current session.
    page.get_by_label("Types").fill("ticket.*")
    page.get_by_label("Types").press("Enter")
    watch.expected("status of 403")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.get_by_label("Types")).to_have_value("")
    emit(bot, "ticket.created", {})
    expect(page.get_by_label("Events, newest first").get_by_role("listitem")).to_have_count(1)


def test_hidden_feed_keeps_a_bounded_number_of_events(
    page: Page, bot: psycopg.Connection[Any]
) -> None:
    # As in a background tab: nothing is drawn until it is shown.
    page.add_init_script("""
        window.drawings = [];
        window.requestAnimationFrame = (draw) => drawings.push(draw);
        window.events = [];
        const parse = JSON.parse;
        JSON.parse = (text) => {
          const value = parse(text);
          const root = document.documentElement;
          if (value.payload) root.dataset.came = events.push(new WeakRef(value));
          return value;
        };
    """)
    sign_in(page, path="/console/events")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    bot.execute(
        "select bridge.emit('a.b', jsonb_build_object('number', n)) from generate_series(1, 2000) n"
    )
    expect(page.locator("html")).to_have_attribute("data-came", "2000")
    assert page.evaluate("drawings.length") == 1
    page.request_gc()
    kept = page.evaluate("events.filter((each) => each.deref()).length")
    assert 300 <= kept < 1000
    page.evaluate("drawings.pop()()")
    rows = page.get_by_label("Events, newest first").get_by_role("listitem")
    expect(rows).to_have_count(300)
    expect(rows.first).to_contain_text("2000")
    expect(rows.last).to_contain_text("1701")


def test_figures_that_cannot_be_refreshed_look_stale(page: Page) -> None:
    page.clock.install()
    sign_in(page)
    figures = page.locator("#figures")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#figures dt'))")
    page.clock.run_for(30_000)
    expect(figures).not_to_have_class("stale")
    page.clock.run_for(40_000)
    expect(figures).to_have_class("stale")
    assert page.evaluate("getSelection().toString()") != ""
    page.evaluate("getSelection().removeAllRanges()")
    page.clock.run_for(10_000)
    expect(figures).not_to_have_class("stale")


def test_russian_browsers_get_russian_pages(open_page: OpenPage, photograph: Photograph) -> None:
    page = open_page(locale="ru-RU", color_scheme="dark")
    page.goto("/console")
    page.get_by_label("Токен").fill(TOKEN)
    page.get_by_role("button", name="Войти").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Обзор")
    assert page.locator("html").get_attribute("lang") == "ru"
    expect(page.get_by_role("navigation", name="Разделы")).to_contain_text("Вебхуки")
    assert barriers(page) == []
    photograph(page, "overview-ru")


def test_pages_without_scope_are_not_linked(
    page: Page, bot: psycopg.Connection[Any], watch: Watch
) -> None:
    bot.execute(
        """insert into bridge.api_tokens (name, token_hash, prefix, scopes)
           values (%s, %s, 'pgb_', array['webhooks:read'])""",
        [HOSTILE, hash_token("narrow")],
    )
    sign_in(page, token="narrow")
    rooms = page.get_by_role("navigation", name="Sections").get_by_role("link")
    expect(rooms).to_have_text(["Overview", "Webhooks", "Deliveries", "Dead letters"])
    expect(page.get_by_text(HOSTILE)).to_be_visible()
    page.goto("/console/events")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not allowed")
    watch.expected("status of 403")
    assert barriers(page) == []
    assert re.search("events:read", page.inner_text("main"))


def test_keyboard_is_enough(page: Page) -> None:
    sign_in(page)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
