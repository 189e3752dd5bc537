"""How numbers and times are written on the pages, and drawn in charts."""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone

import pytest

from bridge.operations.formatting import duration, number, percent, period, rate
from bridge.web.console.charts import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Chart, Line, draw
from bridge.web.console.figures import (
    MOST_SHOWN,
    breakable,
    moment,
    pretty,
)

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
MINUTES = [NOON + timedelta(minutes=minute) for minute in range(5)]


def plain(text: str) -> str:
    return text.replace("\u202f", " ")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"),
        (0, "0.0 ms"),
        (0.0045, "4.5 ms"),
        (0.0309, "31 ms"),
        (0.0999, "100 ms"),
        (0.9999, "1000 ms"),
        (1, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (119, "119 s"),
        (120, "2.0 min"),
        (7_199, "120 min"),
        (7_200, "2.0 h"),
        (172_800, "2 d"),
    ],
)
def test_duration_uses_a_readable_unit(seconds: float | None, shown: str) -> None:
    assert plain(duration(seconds)) == shown


def test_period_uses_whole_units() -> None:
    assert [plain(period(seconds)) for seconds in (900, 3_600, 86_400)] == ["15 min", "1 h", "24 h"]


def test_units_are_translated() -> None:
    assert plain(duration(3, {"s": "с", ".": ","}.__getitem__)) == "3,0 с"


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (None, "–"),
        (0, "0 %"),
        (0.5, "50 %"),
        (0.12345, "12.3 %"),
        (0.99999, "99.9 %"),
        (1, "100 %"),
    ],
)
def test_only_the_whole_is_100_percent(share: float | None, shown: str) -> None:
    assert plain(percent(share)) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.001, "<0.01"), (0.05, "0.05"), (3.04, "3.0"), (99.94, "99.9"), (1234, "1 234")],
)
def test_rate_has_significant_digits(value: float, shown: str) -> None:
    assert plain(rate(value)) == shown


def test_decimal_separator_is_translated() -> None:
    russian = {".": ",", "s": "с", "ms": "мс"}.__getitem__
    assert plain(duration(3.25, russian)) == "3,2 с"
    assert plain(rate(1.25, russian)) == "1,2"
    assert plain(rate(0.001, russian)) == "<0,01"
    assert plain(percent(0.965, russian)) == "96,5 %"
    assert plain(number(1234.5, 1, russian)) == "1 234,5"


def test_thousands_are_separated() -> None:
    assert plain(number(1234567)) == "1 234 567"


def test_moment_is_utc_for_people_and_scripts() -> None:
    tokyo = datetime(2026, 1, 15, 21, 0, 0, 123456, tzinfo=timezone(timedelta(hours=9)))
    assert moment(tokyo) == (
        '<time datetime="2026-01-15T12:00:00.123Z">2026-01-15 12:00:00 UTC</time>'
    )
    assert moment(None) == "–"


def test_json_is_indented_and_other_text_unchanged() -> None:
    assert pretty({"имя": 1}) == '{\n  "имя": 1\n}'
    assert pretty('{"a":[1]}') == '{\n  "a": [\n    1\n  ]\n}'
    assert pretty("<html>") == "<html>"
    assert pretty("[" * 100_000).startswith("[[[")


def test_bidi_characters_are_escaped() -> None:
    shown = pretty({"name": "\u202eevil", "\u2066key": "é"})
    assert "\u202e" not in shown
    assert json.loads(shown) == {"name": "\u202eevil", "\u2066key": "é"}
    assert "é" in shown


def test_long_text_ends_with_an_ellipsis() -> None:
    assert pretty("x" * (MOST_SHOWN + 1)) == "x" * MOST_SHOWN + "…"
    assert pretty("x" * MOST_SHOWN) == "x" * MOST_SHOWN


def test_only_the_start_of_long_json_is_indented() -> None:
    laid_out = []

    class Long(list[int]):
        def __iter__(self) -> Iterator[int]:
            for each in range(10_000_000):
                laid_out.append(each)
                yield each

    shown = pretty(Long([1]))
    assert shown.startswith("[\n  0,\n  1,")
    assert len(shown) == MOST_SHOWN + 1
    assert shown.endswith("…")
    assert len(laid_out) < MOST_SHOWN


def test_deeply_nested_json_is_cut_off() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    shown = pretty(nested)
    assert shown.startswith("[\n  [\n    [")
    assert shown.endswith("…")


def test_breakable_url_stays_escaped() -> None:
    assert breakable("http://a.b/<b>") == ("http:/<wbr>/<wbr>a.<wbr>b/<wbr>&lt;b&gt;")


# --- charts


def chart(times: Sequence[datetime], lines: Sequence[Line]) -> Chart:
    return draw("Chart", times, lines, repr)


def corners(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]


def test_line_spans_the_drawing() -> None:
    drawing = chart(MINUTES, [Line("events", "a", [0, 1, 2, 3, 30])])
    [(style, path, area)] = drawing.paths
    assert style == "a"
    assert corners(path)[0] == (LEFT, HEIGHT - BOTTOM)
    assert corners(path)[-1] == (WIDTH, TOP)
    assert area.endswith("Z")
    assert [float(value) for _, value in drawing.scale] == [0, 10, 20, 30]


def test_missing_value_is_a_gap() -> None:
    [(_, path, area)] = chart(MINUTES, [Line("p50", "a", [1, None, 1, 1, None])]).paths
    assert path.count("M") == area.count("M") == 2
    assert "nan" not in path.lower()


def test_single_point_is_visible() -> None:
    [(_, path, _)] = chart(MINUTES, [Line("p50", "a", [None, None, 1, None, None])]).paths
    assert len(corners(path)) == 2


@pytest.mark.parametrize(
    ("most", "top"),
    [
        (0, 1.0),
        (0.4, 1.0),
        (1, 1.0),
        (1.01, 1.5),
        (7, 7.5),
        (16, 20),
        (999, 1000),
        (1_234_567, 1_500_000),
    ],
)
def test_scale_is_round_and_covers_the_maximum(most: float, top: float) -> None:
    drawing = chart(MINUTES[:2], [Line("events", "a", [0, most])])
    assert float(drawing.scale[-1][1]) == pytest.approx(top)
    assert 2 <= len(drawing.scale) <= 4


def test_no_points_give_an_empty_drawing() -> None:
    drawing = chart([], [Line("events", "a", [])])
    assert drawing.paths == [("a", "", "")]
    assert drawing.times == []
