"""A browser that visits one server and records errors on its pages."""

import asyncio
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Page,
    Request,
    ViewportSize,
    WebError,
    WebSocket,
    expect,
    sync_playwright,
)

from tests.system.processes import TOKEN
from tests.waiting import PATIENCE_SECONDS

ColorScheme = Literal["light", "dark"]

DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}

#: Debian's name, and those of others.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

SWITCHES = [
    "--disable-gpu",
    "--disable-background-networking",
    # Requests to other hosts, by pages or by Chromium itself, stay on this machine. A proxy would
    # see names instead of addresses.
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def chromium() -> str:
    """Return the path of Chromium. Without it, skip the test, or fail it in CI."""
    found = [path for path in map(shutil.which, PROGRAMS) if path is not None]
    if found:
        return found[0]
    reason = "there is no Chromium; on Debian: apt-get install chromium"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextmanager
def browsing() -> Iterator[Browser]:
    """Run headless Chromium for the life of the context."""
    program = chromium()
    expect.set_options(timeout=PATIENCE_SECONDS * 1000)
    with _loops_of_asyncio(), sync_playwright() as playwright:
        # Playwright adds --headless, and --no-sandbox, which root needs.
        browser = playwright.chromium.launch(
            executable_path=program, args=SWITCHES, timeout=PATIENCE_SECONDS * 1000
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def _loops_of_asyncio() -> Iterator[None]:
    """Let asyncio create its own loops even though trio-asyncio is imported."""
    asyncio.set_event_loop_policy(asyncio.get_event_loop_policy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(None)


class Watch:
    """Records the errors on the pages of one test, one line each.

    Errors are: messages at level error from a page or the browser (violations of the
    Content-Security-Policy and failed loads included), uncaught exceptions, crashes, and requests
    to other origins.
    """

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._contexts: list[BrowserContext] = []

    def follow(self, context: BrowserContext, origin: str) -> None:
        """Watch all pages of a context, which may load from that origin only."""

        def on_console(message: ConsoleMessage) -> None:
            if message.type == "error":
                self._complain("logged", f"{message.text} ({message.location['url']})")

        def on_error(error: WebError) -> None:
            self._complain("uncaught", str(error.error))

        def on_request(request: Request) -> None:
            # about:, blob: and data: use no network.
            if request.url.startswith(("http:", "https:")):
                self._asked(request.url, f"{origin}/")

        def on_web_socket(web_socket: WebSocket) -> None:
            self._asked(web_socket.url, f"{origin.replace('http', 'ws', 1)}/")

        def on_page(page: Page) -> None:
            page.on("crash", lambda page: self._complain("crashed", page.url))
            page.on("websocket", on_web_socket)

        context.on("console", on_console)
        context.on("weberror", on_error)
        context.on("request", on_request)
        context.on("page", on_page)
        self._contexts.append(context)

    def _asked(self, url: str, origin: str) -> None:
        if not url.startswith(origin):
            self._complain("asked elsewhere", url)

    def _complain(self, kind: str, text: str) -> None:
        self.complaints.append(f"{kind}: {text}")

    def expected(self, pattern: str, within: float = PATIENCE_SECONDS) -> None:
        """Wait for a complaint that matches the pattern, and remove it."""
        deadline = time.monotonic() + within
        while True:
            self._hear()
            for complaint in self.complaints:
                if re.search(pattern, complaint):
                    self.complaints.remove(complaint)
                    return
            assert time.monotonic() < deadline, f"nothing like {pattern!r}: {self.complaints}"
            for page in self._pages()[:1]:
                page.wait_for_timeout(20)

    def verdict(self) -> None:
        """Fail if any complaint is left."""
        self._hear()
        assert not self.complaints, "\n".join(self.complaints)

    def _hear(self) -> None:
        # Messages of a page arrive in order, so a reply comes after all earlier ones.
        for page in self._pages():
            with suppress(Error):  # it is navigating or has crashed
                page.evaluate("0")

    def _pages(self) -> list[Page]:
        return [page for context in self._contexts for page in context.pages]


@contextmanager
def visiting(
    browser: Browser,
    origin: str,
    watch: Watch,
    *,
    locale: str = "en-US",
    color_scheme: ColorScheme = "light",
    viewport: ViewportSize = DESKTOP,
    timezone_id: str = "UTC",
    java_script_enabled: bool = True,
) -> Iterator[Page]:
    """Open a page that shares nothing with any other, for addresses of one server.

    Yields it empty: ``page.goto("/docs")``. At the end of the context, what ``watch`` has fails.
    """
    context = browser.new_context(
        base_url=origin,
        locale=locale,
        color_scheme=color_scheme,
        viewport=viewport,
        timezone_id=timezone_id,
        java_script_enabled=java_script_enabled,
        service_workers="block",
    )
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    watch.follow(context, origin)
    try:
        yield context.new_page()
        watch.verdict()
    finally:
        context.close()


def _wait_for_style(page: Page) -> None:
    # After a click, the next page's text is found before its style sheet has loaded.
    page.wait_for_load_state()


def barriers(page: Page) -> list[str]:
    """Return the accessibility barriers that axe-core finds, one per line."""
    _wait_for_style(page)
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {rule['help']}: {' '.join(map(str, node['target']))}"
        for rule in found
        for node in rule["nodes"]
    ]


def sign_in(page: Page, token: str = TOKEN, path: str = "/console") -> None:
    """Open a page of the console through the sign-in form."""
    page.goto(path)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"**{path}")


def scrolls_sideways(page: Page) -> bool:
    """Return whether a page is wider than its window."""
    _wait_for_style(page)
    wider: bool = page.evaluate(
        "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
    return wider


def looks_right(page: Page) -> None:
    """Assert that a page is accessible and fits its window, wide and narrow, light and dark.

    Afterwards the page has its own size and the light scheme.
    """
    own_viewport = page.viewport_size
    assert own_viewport is not None
    schemes: tuple[ColorScheme, ...] = ("dark", "light")
    for viewport, scheme in zip((PHONE, own_viewport), schemes, strict=True):
        page.set_viewport_size(viewport)
        page.emulate_media(color_scheme=scheme)
        assert not scrolls_sideways(page), (page.url, viewport)
        assert barriers(page) == [], (page.url, scheme)


def photograph(
    page: Page, directory: Path, name: str, height: int | None = None, *, phone: bool = True
) -> None:
    """Write screenshots of a page in both colour schemes, and restore its size and scheme.

    Args:
        page: the page, in its current state.
        directory: where to write NAME-light.png and NAME-dark.png, and NAME-phone-light.png and
            NAME-phone-dark.png.
        name: the files' common prefix.
        height: of the desktop screenshots in pixels, if not that of ``DESKTOP``.
        phone: also write screenshots of size ``PHONE``.
    """
    _wait_for_style(page)
    own_viewport = page.viewport_size
    own_scheme: ColorScheme = "dark" if page.evaluate(_IS_DARK) else "light"
    schemes: tuple[ColorScheme, ...] = ("light", "dark")
    directory.mkdir(parents=True, exist_ok=True)
    desktop: ViewportSize = {**DESKTOP, "height": height or DESKTOP["height"]}
    for size, viewport in (("", desktop), ("-phone", PHONE))[: 2 if phone else 1]:
        page.set_viewport_size(viewport)
        for scheme in schemes:
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=directory / f"{name}{size}-{scheme}.png", animations="disabled")
    page.emulate_media(color_scheme=own_scheme)
    if own_viewport is not None:
        page.set_viewport_size(own_viewport)


_IS_DARK = "matchMedia('(prefers-color-scheme: dark)').matches"

OpenPage = Callable[..., Page]
Photograph = Callable[[Page, str], None]
