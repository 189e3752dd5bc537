"""Terminal lines of `pgbridge tail`."""

import json
import sys

from hypothesis import given
from hypothesis import strategies as st

from bridge.terminal.visible import visible

EVERY_CHARACTER = "".join(map(chr, range(sys.maxunicode + 1)))


def test_control_characters_are_escaped() -> None:
    assert visible(EVERY_CHARACTER).isprintable()


def test_printable_text_is_unchanged() -> None:
    for text in ("", "Иван O'Brien", "漢字🎉", '{"a":"\\u001b"}'):
        assert visible(text) == text


@given(st.text())
def test_escaped_json_keeps_its_meaning(text: str) -> None:
    shown = visible(json.dumps({"payload": text}, ensure_ascii=False))
    assert json.loads(shown) == {"payload": text}
