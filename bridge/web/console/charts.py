"""Computes small SVG line charts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

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
class Mark:
    """A value on the scale and its position."""

    place: float
    value: float


@dataclass(frozen=True)
class Drawing:
    """The parts of a chart that the template draws."""

    #: For each line: its style, its path, and the path of the area below it.
    paths: list[tuple[str, str, str]]
    scale: list[Mark]
    times: list[tuple[float, datetime]]
    #: Horizontal position of each point, for the pointer.
    points: list[float]


def draw(times: Sequence[datetime], lines: Sequence[Line], *, least: float = 1.0) -> Drawing:
    """Draw lines over a common time axis.

    Args:
        times: of the points, oldest first.
        lines: each with one value per time.
        least: minimum top of the scale, so that noise near zero looks like zero.
    """
    most = max((value for line in lines for value in line.values if value is not None), default=0)
    steps = _scale(max(most, least))
    top = steps[-1]
    count = max(1, len(times) - 1)
    points = [round(LEFT + (WIDTH - LEFT) * index / count, 1) for index in range(len(times))]

    def height(value: float) -> float:
        return round(TOP + (HEIGHT - BOTTOM - TOP) * (1 - value / top), 1)

    paths = []
    for line in lines:
        path = area = ""
        # A missing value is a gap, not zero.
        for has_value, run in groupby(
            zip(points, line.values, strict=True), lambda point: point[1] is not None
        ):
            if not has_value:
                continue
            corners = [(x, height(value or 0.0)) for x, value in run]
            if len(corners) == 1:  # a single point would be invisible
                corners.append((corners[0][0] + 1, corners[0][1]))
            drawn = " L".join(f"{x:g} {y:g}" for x, y in corners)
            path += f"M{drawn}"
            floor = HEIGHT - BOTTOM
            area += f"M{corners[0][0]:g} {floor} L{drawn} L{corners[-1][0]:g} {floor}Z"
        paths.append((line.style, path, area))
    every = max(1, len(times) // 4)
    return Drawing(
        paths=paths,
        scale=[Mark(height(step), step) for step in steps],
        times=[(points[index], times[index]) for index in range(0, len(times), every)],
        points=points,
    )


def _scale(most: float) -> list[float]:
    """Return round values from 0 up to at least ``most``."""
    power = 1e-9
    while True:
        for step in _STEPS:
            if 3 * step * power >= most:
                count = next(n for n in (1, 2, 3) if n * step * power >= most * (1 - 1e-9))
                return [round(index * step * power, 9) for index in range(count + 1)]
        power *= 10
