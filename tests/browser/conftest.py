"""Pages in Chromium, each with a bridge and a database of its own.

A test of a page is a plain function, not ``async``; what it takes:

- ``bridge``: a ``pgbridge run`` on ``bridge_url``. A file whose bridge needs settings overrides
  ``bridge_settings``.
- ``page``: a page for that bridge, empty, as a desktop shows it: ``page.goto("/docs")``.
- ``open_page``: more pages, or others:
  ``open_page(locale="ru-RU", color_scheme="dark", viewport=PHONE)``. No two share a cookie.
- ``watch``: what has gone wrong so far. At the end of a test it must be nothing: no error that a
  page has logged, no exception that nobody caught, nothing that a Content-Security-Policy refused,
  no request to another origin than the bridge (which also reaches nobody beyond 127.0.0.1). What a
  test provokes it says: ``watch.expected("status of 401")`` waits for that, and forgives it.
- ``photograph``: ``photograph(page, "overview")`` writes pictures of the page as it is now into the
  directory that ``pytest --screenshots DIRECTORY`` names, and does nothing without.

``barriers(page)`` of ``visits.py`` is what axe-core finds on a page; a test wants it to be ``[]``.
Waiting is Playwright's: ``expect(page.get_by_role("table")).to_contain_text("user.created")``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.visits import OpenPage, Photograph, Watch, browsing, photograph, visiting
from tests.system.processes import Bridge, running_beside


# Playwright leaves its asyncio loop in the thread while it waits, so a browser lasts only as long
# as the worker is in this directory: other tests have loops of their own.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The browser that all tests of this directory share, one a worker."""
    with browsing() as running:
        yield running


@pytest.fixture
def bridge_settings() -> dict[str, Any]:
    """BRIDGE_<NAME> of the bridge, beyond those of all tests."""
    return {}


@pytest.fixture
def bridge(bridge_url: str, bridge_settings: dict[str, Any]) -> Iterator[Bridge]:
    """A running bridge on a database of the test's own."""
    with running_beside(bridge_url, **bridge_settings) as running:
        yield running


@pytest.fixture
def watch() -> Watch:
    """What goes wrong on the pages of the test."""
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
    """Writes pictures of a page, if somebody wants them."""
    given: str | None = request.config.getoption("--screenshots")

    def take(page: Page, name: str) -> None:
        if given is not None:
            photograph(page, request.config.invocation_params.dir / Path(given), name)

    return take
