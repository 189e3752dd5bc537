"""What `pgbridge tail` lets through to a terminal."""

import json
import sys

from hypothesis import given
from hypothesis import strategies as st

from bridge.tail.lines import visible

EVERY_CHARACTER = "".join(map(chr, range(sys.maxunicode + 1)))


def test_no_character_that_a_terminal_might_obey_is_let_through() -> None:
    assert visible(EVERY_CHARACTER).isprintable()


def test_what_is_printable_is_left_as_it_is() -> None:
    for text in ("", "Иван O'Brien", "漢字🎉", '{"a":"\\u001b"}'):
        assert visible(text) == text


@given(st.text())
def test_json_that_was_made_visible_means_the_same(text: str) -> None:
    shown = visible(json.dumps({"payload": text}, ensure_ascii=False))
    assert json.loads(shown) == {"payload": text}
