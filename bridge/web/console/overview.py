"""The overview page: current figures and recent charts."""

from collections.abc import Callable, Sequence
from typing import Final

import trio
from fastapi import Request
from fastapi.responses import Response

from bridge.database.errors import DatabaseUnavailable
from bridge.database.queries import Queries
from bridge.operations.formatting import duration, rate
from bridge.operations.overview import Delay, Overview, Point, overview
from bridge.operations.pacing import pause_after
from bridge.web.console.charts import Chart, Line, draw
from bridge.web.console.guard import page_router
from bridge.web.console.language import Translate
from bridge.web.console.rendering import page, translator_of

#: Periods in minutes, each with the seconds per point of its charts.
PERIODS: Final = {15: 20, 60: 60, 360: 300, 1440: 1200}
#: How long figures are kept, in seconds, however many people look; the latter if they are slow.
FRESH_SECONDS: Final = 2.0
LONGEST_KEPT_SECONDS: Final = 60.0

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
                kept = pause_after(now - started, FRESH_SECONDS, LONGEST_KEPT_SECONDS)
                self._found[minutes] = found, now + kept
            return found

    async def _query(self, minutes: int) -> Overview:
        [state] = await self._database.fetch("overview")
        bridges = await self._database.fetch("running_bridges")
        blind = await self._database.fetch("blind_rules")
        activity = await self._database.fetch("activity", minutes, PERIODS[minutes])
        return overview(state, bridges, blind, activity)


@looking.get("/console")
async def overview_page(request: Request, minutes: int = 15) -> Response:
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
    times = [point.at for point in points]

    def a_second(name: str, style: str, count: Callable[[Point], int]) -> Line:
        return Line(
            name, style, [count(point) / seconds if point.bridges else None for point in points]
        )

    def percentiles(delays: Sequence[Delay]) -> list[Line]:
        return [
            Line("p50", "b", [delay.p50_seconds for delay in delays]),
            Line("p95", "c", [delay.p95_seconds for delay in delays]),
        ]

    def per_second(value: float) -> str:
        return f"{rate(value, translate)}/{translate('s')}"

    def time(value: float) -> str:
        return duration(value, translate)

    attempts = [
        a_second(translate("delivered"), "b", lambda point: point.delivered),
        a_second(translate("will be retried"), "a", lambda point: point.retried),
        a_second(translate("finally failed"), "c", lambda point: point.failed),
    ]
    to_client = percentiles([point.commit_to_client for point in points])
    to_receiver = percentiles([point.commit_to_acknowledged for point in points])
    return [
        draw(
            translate("Events per second"),
            times,
            [a_second(translate("drained"), "a", lambda point: point.events)],
            per_second,
        ),
        draw(translate("Delivery attempts per second"), times, attempts, per_second),
        draw(translate("From commit to clients"), times, to_client, time, least=0.002),
        draw(
            translate("From commit to the receiver's response"),
            times,
            to_receiver,
            time,
            least=0.002,
        ),
    ]
