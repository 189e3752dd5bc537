"""Small charts, drawn as SVG from real figures.  (pure)"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

#: Size of the drawing, in its own units.
WIDTH, HEIGHT = 600, 170
#: Room beside it for the scale, and below it for the clock.
LEFT, BOTTOM, TOP = 66, 26, 10
#: Steps of a scale, times powers of ten.
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Line:
    """One quantity over time."""

    name: str
    #: A class of the stylesheet: what it looks like.
    style: str
    #: A value for each point; None: there is none.
    values: Sequence[float | None]


@dataclass(frozen=True)
class Mark:
    """A value or a time beside the drawing, and where."""

    place: float
    value: float


@dataclass(frozen=True)
class Drawing:
    """What a template needs to draw a chart."""

    #: For each line its style, the path of its values, and the path of the area below.
    paths: list[tuple[str, str, str]]
    scale: list[Mark]
    times: list[tuple[float, datetime]]
    #: Where each point stands, for whoever points at it.
    points: list[float]


def draw(times: Sequence[datetime], lines: Sequence[Line], *, least: float = 1.0) -> Drawing:
    """Draw lines over one time.

    Args:
        times: of the points, oldest first.
        lines: each with as many values as there are times.
        least: the top of the scale, at least: so that noise near nothing looks like nothing.
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
        # What has no value is a gap, and not nothing.
        for has_value, run in groupby(
            zip(points, line.values, strict=True), lambda point: point[1] is not None
        ):
            if not has_value:
                continue
            corners = [(x, height(value or 0.0)) for x, value in run]
            if len(corners) == 1:  # a lone point would not be seen
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
    """Return round values from 0 up to one that is no less than the greatest."""
    power = 1e-9
    while True:
        for step in _STEPS:
            if 3 * step * power >= most:
                count = next(n for n in (1, 2, 3) if n * step * power >= most * (1 - 1e-9))
                return [round(index * step * power, 9) for index in range(count + 1)]
        power *= 10
