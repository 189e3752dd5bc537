"""Fixtures for pages in Chromium, each with its own bridge and database.

A browser test is a plain function, not ``async``. Fixtures:

- ``bridge``: a ``pgbridge run`` on ``bridge_url``; override ``bridge_settings`` to configure it.
- ``page``: an empty desktop page for that bridge: ``page.goto("/docs")``.
- ``open_page``: further pages, none of which share cookies:
  ``open_page(locale="ru-RU", color_scheme="dark", viewport=PHONE)``.
- ``watch``: the errors so far. None may be left at the end of a test: no logged error, no uncaught
  exception, no violation of the Content-Security-Policy, no request to another origin (such
  requests never leave 127.0.0.1). ``watch.expected("status of 401")`` waits for an error that the
  test provokes and removes it.
- ``photograph``: ``photograph(page, "overview")`` writes screenshots into the directory given by
  ``pytest --screenshots DIRECTORY``; without that option it does nothing.

``looks_right(page)`` of ``visits.py`` asserts what every page must meet. ``barriers(page)`` returns
what axe-core finds; a test expects ``[]``.
Wait with Playwright: ``expect(page.get_by_role("table")).to_contain_text("user.created")``.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.visits import OpenPage, Photograph, Watch, browsing, photograph, visiting
from tests.system.processes import Bridge, running_beside


# While it waits, Playwright leaves its asyncio loop in the thread. So the browser lives only while
# the worker is in this directory; other tests run their own loops.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The browser that all tests of this directory share, one per worker."""
    with browsing() as running:
        yield running


@pytest.fixture
def bridge_settings() -> dict[str, Any]:
    """Additional BRIDGE_<NAME> settings of the bridge."""
    return {}


@pytest.fixture
def bridge(bridge_url: str, bridge_settings: dict[str, Any]) -> Iterator[Bridge]:
    """A running bridge on the test's own database."""
    with running_beside(bridge_url, **bridge_settings) as running:
        yield running


@pytest.fixture
def watch() -> Watch:
    """The errors on the pages of the test."""
    return Watch()


@pytest.fixture
def open_page(browser: Browser, bridge: Bridge, watch: Watch) -> Iterator[OpenPage]:
    """Opens pages for the bridge, as ``visiting`` does."""
    with ExitStack() as opened:

        def open_one(**options: Any) -> Page:
            return opened.enter_context(visiting(browser, bridge.rest_url, watch, **options))

        yield open_one


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    """A page for the bridge."""
    return open_page()


@pytest.fixture(name="photograph")
def photograph_if_wanted(request: pytest.FixtureRequest) -> Photograph:
    """Writes screenshots of a page if --screenshots is given."""
    given: str | None = request.config.getoption("--screenshots")

    def take(page: Page, name: str) -> None:
        if given is not None:
            photograph(page, request.config.invocation_params.dir / Path(given), name)

    return take
