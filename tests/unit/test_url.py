"""When two URLs lead to the same receiver."""

import pytest

from bridge.delivery.url import same_origin

CRM = "https://crm.example/hook"


@pytest.mark.parametrize(
    "url",
    [
        "https://crm.example/other?a=1#b",
        "https://CRM.Example:443/",
        "HTTPS://crm.example.",
    ],
)
def test_spelling_and_path_do_not_change_the_origin(url: str) -> None:
    assert same_origin(CRM, url)
    assert same_origin(url, CRM)


def test_unicode_and_encoded_host_are_the_same() -> None:
    assert same_origin("http://Bücher.example:80/", "http://xn--bcher-kva.example")


@pytest.mark.parametrize(
    "url",
    [
        "http://crm.example/hook",
        "http://crm.example:443/hook",
        "https://crm.example:8443/hook",
        "https://crm.example.evil.example/hook",
        "https://evil.crm.example/hook",
        "https://crm.example:443@evil.example/hook",
        "https://crm.exаmple/hook",  # with a Cyrillic letter
        "ftp://crm.example/hook",
        "not a URL",
        "",
    ],
)
def test_other_scheme_host_or_port_is_another_origin(url: str) -> None:
    assert not same_origin(CRM, url)
    assert not same_origin(url, CRM)


def test_unusable_url_has_no_origin() -> None:
    assert not same_origin("nonsense", "nonsense")
