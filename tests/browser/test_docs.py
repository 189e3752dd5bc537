"""The API documentation page when its scripts cannot be loaded."""

from playwright.sync_api import Page, expect

from tests.browser.visits import OpenPage, Photograph, Watch


def test_docs_page_without_scripts_links_the_description(
    page: Page, watch: Watch, photograph: Photograph
) -> None:
    page.goto("/docs")
    expect(page.get_by_text("cannot reach that server")).to_be_visible()
    watch.expected(r"asked elsewhere: https://cdn\.jsdelivr\.net/.*\.css")
    watch.expected(r"asked elsewhere: https://cdn\.jsdelivr\.net/.*\.js")
    watch.expected(r"net::ERR_NAME_NOT_RESOLVED .*\.css")
    watch.expected(r"net::ERR_NAME_NOT_RESOLVED .*\.js")
    watch.expected("SwaggerUIBundle is not defined")
    photograph(page, "docs")
    page.get_by_role("link", name="openapi.json").click()
    page.wait_for_url("**/openapi.json")
    assert '"openapi"' in page.inner_text("pre")


def test_test_can_have_pages_of_several_readers(open_page: OpenPage) -> None:
    first, second = open_page(), open_page(locale="ru-RU")
    for page in (first, second):
        page.goto("/healthz")
    assert [page.evaluate("navigator.language") for page in (first, second)] == ["en-US", "ru-RU"]
