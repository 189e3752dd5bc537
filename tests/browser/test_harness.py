"""The browser test harness: no error on a page goes unnoticed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.visits import PHONE, Watch, barriers, chromium, photograph, visiting

STRICT = "default-src 'none'; script-src 'self'; img-src 'self' data:; style-src 'self'"


@dataclass
class Site:
    """A server of the given pages; everything else is 404."""

    origin: str
    pages: dict[str, str] = field(default_factory=dict)
    policy: str | None = None
    #: Paths, with the language that was asked for.
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serving(address: str) -> Iterator[Site]:
    """Serve a site on a free port of an address for the life of the context."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append((self.path, self.headers["Accept-Language"]))
            text = served.pages.get(self.path)
            self.send_response(404 if text is None else 200)
            kind = "javascript" if self.path.endswith(".js") else "html"
            self.send_header("Content-Type", f"text/{kind}; charset=utf-8")
            if served.policy is not None:
                self.send_header("Content-Security-Policy", served.policy)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((address, 0), Handler) as server:
        served = Site(f"http://{address}:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving("127.0.0.1") as served:
        yield served


@pytest.fixture
def elsewhere() -> Iterator[Site]:
    """Another server, reachable only by an unrestricted browser."""
    with serving("127.0.0.2") as served:
        yield served


def html(body: str, title: str = "<title>A page</title>") -> str:
    return (
        f'<!DOCTYPE html><html lang="en"><head>{title}<link rel="icon" href="data:,"></head>'
        f"<body><main><h1>A page</h1>{body}</main></body></html>"
    )


# --- Errors


def test_faultless_page_passes(browser: Browser, site: Site) -> None:
    site.pages["/"] = html("<script>console.log('ok'); console.warn('hm')</script>")
    with visiting(browser, site.origin, Watch()) as page:
        page.goto("/")
        assert page.title() == "A page"
    assert [path for path, _ in site.asked] == ["/"]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("<script>console.error('broken', 7)</script>", "logged: broken 7"),
        ("<script>nobody.knows</script>", "uncaught: nobody is not defined"),
        ("<script>throw 'a text'</script>", "uncaught: a text"),
        ("<script>Promise.reject(new Error('later'))</script>", "uncaught: later"),
        ("<img src='/missing.png' alt=''>", r"logged: .*404.*/missing\.png"),
        ("<iframe srcdoc='<script>console.error(1)</script>'></iframe>", "logged: 1"),
        ("<script src='data:text/javascript,fetch(`http://there.test/`)'></script>", "there.test"),
        ("<img src='http://there.test/a.png' alt=''>", "asked elsewhere: http://there.test/a.png"),
        ("<iframe src='https://there.test/'></iframe>", "asked elsewhere: https://there.test/"),
        ("<script>new WebSocket('ws://there.test/')</script>", "asked elsewhere: ws://there.test/"),
        ("<script>new WebSocket('ws://127.0.0.1:9/')</script>", "asked elsewhere: ws://127.0.0.1"),
    ],
    ids=[
        "an error is logged",
        "an error is not caught",
        "a text is thrown",
        "a promise is rejected",
        "an image is missing",
        "a frame logs an error",
        "a script fetches elsewhere",
        "an image is elsewhere",
        "a frame is elsewhere",
        "a stream is elsewhere",
        "a stream is of another port",
    ],
)
def test_page_errors_fail_the_test(browser: Browser, site: Site, body: str, complaint: str) -> None:
    site.pages["/"] = html(body)
    with (
        pytest.raises(AssertionError, match=complaint),
        visiting(browser, site.origin, Watch()) as page,
    ):
        page.goto("/")


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ("<script>document.title = 'run'</script>", "inline script"),
        ("<p style='color: red'>red</p>", "inline style"),
        ("<img src='http://there.test/a.png' alt=''>", "image 'http://there.test/a.png'"),
        ("<script src='fetch.js'></script>", "/asked"),
    ],
    ids=["script", "style", "image", "fetch"],
)
def test_policy_violations_fail_the_test(
    browser: Browser, site: Site, body: str, refused: str
) -> None:
    site.policy = STRICT
    site.pages |= {"/": html(body), "/fetch.js": "fetch('/asked').catch(() => {})"}
    with (
        pytest.raises(AssertionError, match=f"{refused}.*Content Security Policy"),
        visiting(browser, site.origin, Watch()) as page,
    ):
        page.goto("/")
    assert "/asked" not in [path for path, _ in site.asked]


def test_requests_to_other_hosts_are_blocked(browser: Browser, site: Site, elsewhere: Site) -> None:
    site.pages["/"] = html("<img src='/missing.png' alt=''>")
    elsewhere.pages["/"] = html("")
    watch = Watch()
    with visiting(browser, elsewhere.origin, watch) as page, pytest.raises(Exception, match="net:"):
        page.goto("/")
    with visiting(browser, site.origin, watch) as page:
        page.goto("/")
        page.evaluate("url => fetch(url).catch(() => {})", elsewhere.origin)
        watch.expected(f"asked elsewhere: {elsewhere.origin}/")
        watch.expected("net::ERR_NAME_NOT_RESOLVED")
        watch.expected("404")
    assert elsewhere.asked == []


def test_expected_errors_must_happen(browser: Browser, site: Site) -> None:
    site.pages["/"] = html("<script>setTimeout(() => console.error('late'), 50)</script>")
    watch = Watch()
    with visiting(browser, site.origin, watch) as page:
        page.goto("/")
        watch.expected("logged: late")
        with pytest.raises(AssertionError, match="nothing like 'late'"):
            watch.expected("late", within=0)
    assert watch.complaints == []


def test_errors_on_any_page_fail_the_test(browser: Browser, site: Site) -> None:
    site.pages["/"] = html("<script>if (window.opener) console.error('in the other')</script>")
    watch = Watch()
    with visiting(browser, site.origin, watch) as page:
        page.goto("/")
        with page.expect_popup() as opened:
            page.evaluate("window.open('/')")
        opened.value.wait_for_load_state()
        opened.value.close()
        with pytest.raises(AssertionError, match="in the other"):
            watch.verdict()
        watch.expected("in the other")


# --- Accessibility


def test_missing_title_or_low_contrast_is_a_barrier(browser: Browser, site: Site) -> None:
    site.pages["/"] = html("<p style='color: #ccc; background: #fff'>Faint</p>", title="")
    with visiting(browser, site.origin, Watch()) as page:
        page.goto("/")
        found = barriers(page)
    assert [line.split(":")[0] for line in found] == ["color-contrast", "document-title"]
    assert found[0].endswith(": p")


def test_barriers_are_found_despite_a_strict_policy(browser: Browser, site: Site) -> None:
    site.policy = STRICT
    site.pages |= {"/": html("<img src='data.png'>"), "/data.png": "", "/whole": html("<p>All</p>")}
    with visiting(browser, site.origin, Watch()) as page:
        page.goto("/")
        assert [line.split(":")[0] for line in barriers(page)] == ["image-alt"]
        page.goto("/whole")
        assert barriers(page) == []


def test_page_is_shown_to_the_named_reader(browser: Browser, site: Site) -> None:
    site.pages["/"] = html("<meta name='viewport' content='width=device-width'>")
    seen = "[navigator.language, matchMedia('(prefers-color-scheme: dark)').matches, innerWidth]"
    with visiting(browser, site.origin, Watch()) as page:
        page.goto("/")
        assert page.evaluate(seen) == ["en-US", False, 1280]
        page.evaluate("document.cookie = 'a=b'")
    with visiting(
        browser, site.origin, Watch(), locale="ru-RU", color_scheme="dark", viewport=PHONE
    ) as page:
        page.goto("/")
        assert page.evaluate(seen) == ["ru-RU", True, 390]
        assert page.evaluate("document.cookie") == ""
    languages = [language for _, language in site.asked]
    assert [(language or "")[:5] for language in languages] == ["en-US", "ru-RU"]


# --- Pictures

COLOURS = (
    "<style>body { background: white } "
    "@media (prefers-color-scheme: dark) { body { background: black } }</style>"
)


def test_screenshots_cover_both_schemes_and_sizes(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    site.pages["/"] = html(COLOURS)
    with visiting(browser, site.origin, Watch(), color_scheme="dark", viewport=PHONE) as page:
        page.goto("/")
        photograph(page, tmp_path / "new", "start")
        background = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(f"[{background}, innerWidth]") == ["rgb(0, 0, 0)", 390]
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    # Width and height are the first fields of a PNG.
    sizes = {
        name: (int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big"))
        for name, png in pictures.items()
    }
    assert sizes == {
        "start-light.png": (1280, 800),
        "start-dark.png": (1280, 800),
        "start-phone-light.png": (390, 844),
        "start-phone-dark.png": (390, 844),
    }
    assert len(set(pictures.values())) == 4


# --- No browser


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_missing_chromium_skips_but_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="apt-get install chromium"):
        chromium()
