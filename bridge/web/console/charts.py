"""Computes small SVG line charts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

#: Size of the drawing in SVG units.
WIDTH, HEIGHT = 600, 170
#: Margins for the scale and the times.
LEFT, BOTTOM, TOP = 66, 26, 10
#: Steps of a scale, times powers of ten.
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Line:
    """One quantity over time."""

    name: str
    #: CSS class.
    style: str
    #: One value per point; None for a gap.
    values: Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """A chart as the template draws it."""

    title: str
    #: The newest values, for readers who do not see the drawing.
    summary: str
    #: Style and name of each line; empty if there is only one.
    legend: list[tuple[str, str]]
    #: For each line: its style, its path, and the path of the area below it.
    paths: list[tuple[str, str, str]]
    #: Vertical positions and their values.
    scale: list[tuple[float, str]]
    times: list[tuple[float, datetime]]
    #: Horizontal position, time and text of each point, for the pointer.
    points: list[dict[str, Any]]


def draw(
    title: str,
    times: Sequence[datetime],
    lines: Sequence[Line],
    shown: Callable[[float], str],
    *,
    least: float = 1.0,
) -> Chart:
    """Draw lines over a common time axis.

    Args:
        times: of the points, oldest first.
        lines: each with one value per time.
        shown: formats a value.
        least: minimum top of the scale, so that noise near zero looks like zero.
    """
    most = max((value for line in lines for value in line.values if value is not None), default=0)
    steps = _scale(max(most, least))
    top = steps[-1]
    count = max(1, len(times) - 1)
    places = [round(LEFT + (WIDTH - LEFT) * index / count, 1) for index in range(len(times))]
    texts = []
    for index in range(len(times)):
        values = [(line.name, line.values[index]) for line in lines]
        said = [f"{name} {'–' if value is None else shown(value)}" for name, value in values]
        texts.append("  ".join(said))
    every = max(1, len(times) // 4)
    return Chart(
        title=title,
        summary=f"{title}: {texts[-1]}" if texts else title,
        legend=[(line.style, line.name) for line in lines] if len(lines) > 1 else [],
        paths=[(line.style, *_paths(places, line.values, top)) for line in lines],
        scale=[(_height(step, top), shown(step) if step else "0") for step in steps],
        times=list(zip(places, times, strict=True))[::every],
        points=[
            {"x": place, "at": at.isoformat(), "text": text}
            for place, at, text in zip(places, times, texts, strict=True)
        ],
    )


def _height(value: float, top: float) -> float:
    return round(TOP + (HEIGHT - BOTTOM - TOP) * (1 - value / top), 1)


def _paths(places: Sequence[float], values: Sequence[float | None], top: float) -> tuple[str, str]:
    """Return the path of a line and that of the area below it. A missing value is a gap."""
    path = area = ""
    floor = HEIGHT - BOTTOM
    pairs = zip(places, values, strict=True)
    for has_value, run in groupby(pairs, lambda pair: pair[1] is not None):
        if not has_value:
            continue
        corners = [(x, _height(value or 0.0, top)) for x, value in run]
        if len(corners) == 1:  # a single point would be invisible
            corners.append((corners[0][0] + 1, corners[0][1]))
        drawn = " L".join(f"{x:g} {y:g}" for x, y in corners)
        path += f"M{drawn}"
        area += f"M{corners[0][0]:g} {floor} L{drawn} L{corners[-1][0]:g} {floor}Z"
    return path, area


def _scale(most: float) -> list[float]:
    """Return round values from 0 up to at least ``most``."""
    power = 1e-9
    while True:
        for step in _STEPS:
            if 3 * step * power >= most:
                count = next(n for n in (1, 2, 3) if n * step * power >= most * (1 - 1e-9))
                return [round(index * step * power, 9) for index in range(count + 1)]
        power *= 10
