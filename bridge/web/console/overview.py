"""The overview page: current figures and recent charts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import trio
from fastapi import Query, Request
from fastapi.responses import Response

from bridge.database.errors import DatabaseUnavailable
from bridge.database.queries import Queries
from bridge.operations.formatting import duration, rate
from bridge.operations.overview import Overview, Point, overview
from bridge.web.console import charts
from bridge.web.console.guard import page_router
from bridge.web.console.language import Translate
from bridge.web.console.rendering import page, translator_of

#: Periods in minutes, each with the seconds per point of its charts.
PERIODS: Final = {15: 20, 60: 60, 360: 300, 1440: 1200}
#: How old figures may be, in seconds. If a query is slow, because vacuum is held back, the figures
#: are kept for ``REST_FACTOR`` times its duration, however many people look.
FRESH_SECONDS: Final = 2.0
REST_FACTOR: Final = 10

looking = page_router(None)
ROUTERS = (looking,)


class Overviews:
    """The figures, shared by all readers."""

    def __init__(self, database: Queries) -> None:
        self._database = database
        self._locks = {minutes: trio.Lock() for minutes in PERIODS}
        #: By period: the figures, and when they expire.
        self._found: dict[int, tuple[Overview, float]] = {}
        #: By period: when the query last failed.
        self._failed: dict[int, float] = {}

    async def get(self, minutes: int) -> Overview:
        """Return the figures of one of the ``PERIODS``.

        Raises:
            DatabaseUnavailable: the query failed, for this reader or for one it waited for.
        """
        asked = trio.current_time()
        async with self._locks[minutes]:
            found, good_until = self._found.get(minutes, (None, 0.0))
            started = trio.current_time()
            if found is None or started >= good_until:
                if self._failed.get(minutes, asked) > asked:
                    # The query that this reader waited for has failed; share the failure.
                    raise DatabaseUnavailable("the figures cannot be read")
                try:
                    found = await self._query(minutes)
                except DatabaseUnavailable:
                    self._failed[minutes] = trio.current_time()
                    raise
                now = trio.current_time()
                rest = max(FRESH_SECONDS, REST_FACTOR * (now - started))
                self._found[minutes] = found, now + rest
            return found

    async def _query(self, minutes: int) -> Overview:
        [state] = await self._database.fetch("overview")
        bridges = await self._database.fetch("running_bridges")
        activity = await self._database.fetch("activity", minutes, PERIODS[minutes])
        return overview(state, bridges, activity)


@dataclass(frozen=True)
class Chart:
    """A chart with its legend and the text of each point."""

    title: str
    summary: str
    legend: list[tuple[str, str]]
    drawing: charts.Drawing
    scale: list[tuple[float, str]]
    points: list[dict[str, Any]]


@looking.get("/console")
async def overview_page(request: Request, minutes: Annotated[int, Query()] = 15) -> Response:
    """Current and recent figures."""
    minutes = minutes if minutes in PERIODS else min(PERIODS)
    overviews: Overviews = request.app.state.overviews
    figures = await overviews.get(minutes)
    translate = translator_of(request)
    return page(
        request,
        "overview",
        figures=figures,
        charts=_charts(figures, PERIODS[minutes], translate),
        minutes=minutes,
        periods=PERIODS,
        troubles={name: why for name, why in request.app.state.troubles().items() if why},
    )


def _charts(figures: Overview, seconds: int, translate: Translate) -> list[Chart]:
    # The last point is incomplete and would look like a drop.
    points = figures.points[:-1]

    def a_second(count: Callable[[Point], int]) -> list[float | None]:
        return [count(point) / seconds if point.bridges else None for point in points]

    def per_second(value: float) -> str:
        return f"{rate(value, translate)}/{translate('s')}"

    def time(value: float) -> str:
        return duration(value, translate)

    return [
        _chart(
            translate("Events per second"),
            points,
            [charts.Line(translate("drained"), "a", a_second(lambda point: point.events))],
            per_second,
        ),
        _chart(
            translate("Delivery attempts per second"),
            points,
            [
                charts.Line(translate("delivered"), "b", a_second(lambda point: point.delivered)),
                charts.Line(
                    translate("will be retried"), "a", a_second(lambda point: point.retried)
                ),
                charts.Line(translate("finally failed"), "c", a_second(lambda point: point.failed)),
            ],
            per_second,
        ),
        _chart(
            translate("From commit to clients"),
            points,
            [
                charts.Line("p50", "b", [each.commit_to_client.p50_seconds for each in points]),
                charts.Line("p95", "c", [each.commit_to_client.p95_seconds for each in points]),
            ],
            time,
            least=0.002,
        ),
        _chart(
            translate("From commit to the receiver's response"),
            points,
            [
                charts.Line(
                    "p50", "b", [each.commit_to_acknowledged.p50_seconds for each in points]
                ),
                charts.Line(
                    "p95", "c", [each.commit_to_acknowledged.p95_seconds for each in points]
                ),
            ],
            time,
            least=0.002,
        ),
    ]


def _chart(
    title: str,
    points: Sequence[Point],
    lines: Sequence[charts.Line],
    shown: Callable[[float], str],
    least: float = 1.0,
) -> Chart:
    drawing = charts.draw([point.at for point in points], lines, least=least)

    def said(index: int) -> str:
        values = [(line.name, line.values[index]) for line in lines]
        return "  ".join(
            f"{name} {'–' if value is None else shown(value)}" for name, value in values
        )

    return Chart(
        title=title,
        summary=f"{title}: {said(len(points) - 1)}" if points else title,
        legend=[(line.style, line.name) for line in lines] if len(lines) > 1 else [],
        drawing=drawing,
        scale=[(mark.place, shown(mark.value) if mark.value else "0") for mark in drawing.scale],
        points=[
            {"x": place, "at": point.at.isoformat(), "text": said(index)}
            for index, (place, point) in enumerate(zip(drawing.points, points, strict=True))
        ],
    )
