"""Draw the status in a terminal every few seconds, for ``pgbridge status --watch``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress

import psycopg
from rich import box
from rich.align import Align
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bridge.database.sessions import Connection, SessionError
from bridge.operations.formatting import duration, number, percent, rate
from bridge.operations.overview import Counted, Delay, Overview
from bridge.operations.pacing import pause_after
from bridge.operations.status import Status, StatusError, read_status

#: Pause between readings, usually and at most.
READ_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 10.0
#: When a reading that has not returned is reported.
ANSWER_SECONDS = 5.0
#: The time that the charts cover, and their resolution.
CHART_MINUTES, POINT_SECONDS = 15, 20

_BARS = "▁▂▃▄▅▆▇█"
_STATE_COLOURS = {"delivering": "green", "failing": "yellow", "paused": "yellow", "disabled": "red"}


def watch(
    connect: Callable[[], AbstractContextManager[Connection]],
    show: Callable[[Status | None, str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Read the status repeatedly, and reconnect when the connection is lost.

    Args:
        connect: opens a connection.
        show: receives each status, or None and a problem, possibly from another thread.

    Raises:
        SessionError, StatusError: the first reading failed.
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    seen = False
    while True:
        try:
            with connect() as connection:
                while True:
                    started = time.monotonic()
                    with _report_slowness(show):
                        status = read_status(
                            connection, minutes=CHART_MINUTES, point_seconds=POINT_SECONDS
                        )
                    show(status, "")
                    seen = True
                    took = time.monotonic() - started
                    sleep(pause_after(took, READ_SECONDS, LONGEST_PAUSE_SECONDS))
        except (psycopg.Error, SessionError, StatusError) as error:
            if not seen:
                raise
            show(None, " ".join(str(error).split()))
            sleep(READ_SECONDS)


@contextmanager
def _report_slowness(show: Callable[[Status | None, str], None]) -> Iterator[None]:
    """Show a problem if the body takes too long, but not after it has ended."""
    problem = f"the database has not answered for {ANSWER_SECONDS:.0f} s"
    timer = threading.Timer(ANSWER_SECONDS, show, (None, problem))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


class Screen(AbstractContextManager["Screen"]):
    """A full-screen view of the latest status."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False)
        self._last: Status | None = None

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if self._last is not None:  # leave the last frame on the normal screen
            self._console.print(frame(self._last.overview, "", self._console.width))

    def show(self, status: Status | None, problem: str) -> None:
        """Show a status, or the last one with the problem that keeps it from being updated."""
        self._last = status or self._last
        if self._last is not None:
            shown = frame(self._last.overview, problem, self._console.width)
            # The terminal was closed.
            with suppress(BrokenPipeError):
                self._live.update(shown, refresh=True)


def frame(figures: Overview, problem: str, width: int) -> RenderableType:
    """Draw the overview.

    Args:
        problem: why it is out of date; empty if it is current.
        width: columns of the terminal.
    """
    clock = f"{figures.at:%Y-%m-%d %H:%M:%S} UTC"
    head = Table.grid(expand=True)
    head.add_column()
    head.add_column(justify="right")
    head.add_row(Text("pgbridge status", "bold"), Text(f"{clock}   Ctrl-C to quit", "dim"))
    parts: list[RenderableType] = [head]
    if problem:
        parts.append(Text(f"out of date: {problem}", "bold red", overflow="fold"))
    if figures.dead_letters.count:
        text = f"dead letters: {figures.dead_letters}; see: pgbridge dead-letters list"
        parts.append(Text(text, "bold red", overflow="fold"))
    if not figures.drainer.alive:
        parts.append(Text("no bridge is draining; events wait in the outbox", "bold red"))
    parts += [
        Text(f"captures nothing: {rule.name}: {rule.words}", "bold red", overflow="fold")
        for rule in figures.blind_rules
    ]
    parts += [_tiles(figures, width), _charts(figures, width), _facts(figures)]
    return Group(*parts)


def _tiles(figures: Overview, width: int) -> RenderableType:
    rates, queue = figures.rates, figures.delivery_queue
    tiles = [
        (f"{rate(rates.events_per_second)}/s", "events", ""),
        (f"{rate(rates.deliveries_per_second)}/s", "delivered", ""),
        (percent(figures.success_rate.deliveries), "success rate", ""),
        (duration(figures.commit_to_client.p50_seconds), "commit → client", ""),
        (duration(figures.commit_to_acknowledged.p50_seconds), "commit → receiver", ""),
        (_counted(figures.outbox), "in the outbox", "yellow" if figures.outbox.count else ""),
        (_counted(queue.due), "deliveries due", ""),
        (number(sum(each.clients for each in figures.bridges)), "clients", ""),
    ]
    columns = 8 if width >= 130 else 4
    table = Table.grid(expand=True)
    for _ in range(columns):
        table.add_column(ratio=1)
    for start in range(0, len(tiles), columns):
        table.add_row(*(_tile(*tile) for tile in tiles[start : start + columns]))
    return table


def _tile(value: str, name: str, colour: str) -> RenderableType:
    text = Text.assemble((value, f"bold {colour}"), "\n", (name, "dim"), justify="center")
    return Panel(Align.center(text), box=box.ROUNDED, padding=(0, 0))


def _charts(figures: Overview, width: int) -> RenderableType:
    points = figures.points[:-1]  # the last one is incomplete
    seconds = figures.point_seconds or 1
    bars = max(10, min(len(points), width - 52))
    table = Table.grid(padding=(0, 2))
    minutes = round(seconds * min(bars, len(points)) / 60)
    charts: list[tuple[str, list[float | None], str]] = [
        (
            "events/s",
            [each.events / seconds if each.bridges else None for each in points],
            f"peak {rate(max((each.events / seconds for each in points), default=0.0))}/s",
        ),
        (
            "attempts/s",
            [
                (each.delivered + each.retried + each.failed) / seconds if each.bridges else None
                for each in points
            ],
            f"failed in {minutes} min: "
            + number(sum(each.retried + each.failed for each in points)),
        ),
        (
            "commit → client, p95",
            [each.commit_to_client.p95_seconds for each in points],
            _delay(figures.commit_to_client),
        ),
        (
            "commit → receiver, p95",
            [each.commit_to_acknowledged.p95_seconds for each in points],
            _delay(figures.commit_to_acknowledged),
        ),
    ]
    for name, values, note in charts:
        table.add_row(Text(name, "dim"), Text(bar_chart(values[-bars:]), "cyan"), note)
    return Panel(table, title=f"last {minutes} min", title_align="left", box=box.ROUNDED)


def _facts(figures: Overview) -> RenderableType:
    queue, doorbell = figures.delivery_queue, figures.doorbell
    words = {True: "ringing: commits notify", False: "quiet: the bridge polls", None: "unknown"}
    outbox = _counted(figures.outbox)
    if figures.outbox.oldest_seconds is not None:
        outbox += f", the oldest {duration(figures.outbox.oldest_seconds)}"
    waiting = (
        f"due {_counted(queue.due)}, in flight {_counted(queue.in_flight)}, "
        f"scheduled {_counted(queue.scheduled)}, held {_counted(queue.held)}"
    )
    if queue.oldest_due_seconds is not None:
        waiting += f"; the oldest has been due for {duration(queue.oldest_due_seconds)}"
    drainer = "no bridge"
    if figures.drainer.alive:
        drainer = figures.drainer.bridge or "a bridge"
        if figures.drainer.leading_seconds is not None:
            drainer += f", for {duration(figures.drainer.leading_seconds)}"
    webhooks = Text()
    for state, count in figures.webhooks.items():
        if count:
            webhooks.append(f"{state} {count}  ", _STATE_COLOURS.get(state, ""))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("draining", drainer)
    table.add_row("doorbell", f"{words[doorbell.rings]} ({doorbell.mode or 'no mode'})")
    table.add_row("outbox", outbox)
    table.add_row("deliveries", waiting)
    table.add_row("webhooks", webhooks or "none")
    for each in figures.bridges:
        clients = f"clients {number(each.clients)}, deliveries in flight {number(each.in_flight)}"
        table.add_row("running", f"{each.bridge}, {each.version}, {clients}")
    if figures.last_event is not None:
        occurred = f"{figures.last_event.occurred_at:%Y-%m-%d %H:%M:%S} UTC"
        table.add_row("last event", f"{figures.last_event.id}, at {occurred}")
    return table


def bar_chart(values: Sequence[float | None]) -> str:
    """Draw one character per value, and a space for a missing one."""
    most = max((value for value in values if value is not None), default=0.0)
    return "".join(
        " " if value is None else _BARS[round((len(_BARS) - 1) * value / most) if most else 0]
        for value in values
    )


def _delay(delay: Delay) -> str:
    return f"p50 {duration(delay.p50_seconds)}, p95 {duration(delay.p95_seconds)}"


def _counted(queue: Counted) -> str:
    return f"{'over ' if queue.more else ''}{number(queue.count)}"
