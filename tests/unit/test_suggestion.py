"""What is said about unknown names."""

import pytest

from bridge.terminal.suggestion import LONGEST, unknown

FIELDS = ["name", "url", "event_type", "filter", "max_concurrency"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("fliter", "filter"),
        ("Filter", "filter"),
        ("FILTER", "filter"),
        ("filters", "filter"),
        ("eventType", "event_type"),
        ("event-type", "event_type"),
        ("max_concurency", "max_concurrency"),
    ],
)
def test_misspelt_name_is_recognised(name: str, meant: str) -> None:
    assert unknown("field", name, FIELDS) == f'unknown field "{name}"; did you mean "{meant}"?'


@pytest.mark.parametrize("name", ["", "colour", "x"])
def test_other_name_has_no_suggestion(name: str) -> None:
    assert unknown("field", name, FIELDS) == f'unknown field "{name}"'
    assert unknown("field", name, []) == f'unknown field "{name}"'


def test_unknown_name_is_shown_in_one_short_line() -> None:
    assert unknown("field", "a\n\ud800\x1b[2J", []) == 'unknown field "a\\n\\ud800\\u001b[2J"'
    long = "filter" * 10_000
    assert unknown("field", long, [long]) == f'unknown field "{long[:LONGEST]}…"'
