"""The figures of the bridge in a terminal, anew every few seconds: ``pgbridge status --watch``."""

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
from bridge.operations.overview import Counted, Delay, Outbox, Overview
from bridge.operations.status import Status, StatusError, read_status

#: How often it looks. While vacuum is held back the queues are slow to look at: then it rests so
#: many times as long as a look took.
LOOK_SECONDS = 2.0
REST = 10
#: A look that takes longer is not answered, and that is shown, too.
ANSWER_SECONDS = 5.0
#: What it looks back at, and in what steps.
BACK_MINUTES, POINT_SECONDS = 15, 20

_BARS = "▁▂▃▄▅▆▇█"
_STATE_COLOURS = {"delivering": "green", "failing": "yellow", "paused": "yellow", "disabled": "red"}


def watch(
    connect: Callable[[], AbstractContextManager[Connection]],
    show: Callable[[Status | None, str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Read the status again and again, until somebody interrupts; a database may go and come back.

    Args:
        connect: opens a connection; it is opened again when it was lost.
        show: gets each status, or None with what is wrong; that may be in another thread.

    Raises:
        SessionError, StatusError: there is none to read at the beginning.
        KeyboardInterrupt: somebody has seen enough.
    """
    seen = False
    while True:
        try:
            with connect() as connection:
                while True:
                    started = time.monotonic()
                    with _impatience(show):
                        status = read_status(
                            connection, minutes=BACK_MINUTES, point_seconds=POINT_SECONDS
                        )
                    show(status, "")
                    seen = True
                    sleep(max(LOOK_SECONDS, REST * (time.monotonic() - started)))
        except (psycopg.Error, SessionError, StatusError) as error:
            if not seen:
                raise
            show(None, " ".join(str(error).split()))
            sleep(LOOK_SECONDS)


@contextmanager
def _impatience(show: Callable[[Status | None, str], None]) -> Iterator[None]:
    """Have it shown if what is done meanwhile takes long; nothing is shown after its end."""
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
    """A frame in a terminal that shows the newest status."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False)
        self._last: Status | None = None

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if self._last is not None:  # what was seen last stays
            self._console.print(frame(self._last.overview, "", self._console.width))

    def show(self, status: Status | None, problem: str) -> None:
        """Show a status; or the last one, with what keeps the next from being read."""
        self._last = status or self._last
        if self._last is not None:
            shown = frame(self._last.overview, problem, self._console.width)
            # A terminal that has gone away is no reason to complain.
            with suppress(BrokenPipeError):
                self._live.update(shown, refresh=True)


def frame(told: Overview, problem: str, width: int) -> RenderableType:
    """Draw the figures.

    Args:
        problem: why they are not of now; empty: they are.
        width: columns of the terminal.
    """
    clock = f"{told.at:%Y-%m-%d %H:%M:%S} UTC"
    head = Table.grid(expand=True)
    head.add_column()
    head.add_column(justify="right")
    head.add_row(Text("pgbridge status", "bold"), Text(f"{clock}   Ctrl-C ends it", "dim"))
    parts: list[RenderableType] = [head]
    if problem:
        parts.append(Text(f"not of now: {problem}", "bold red", overflow="fold"))
    if not told.drainer.alive:
        parts.append(Text("no bridge drains; what is committed waits", "bold red"))
    parts += [_tiles(told, width), _courses(told, width), _facts(told)]
    return Group(*parts)


def _tiles(told: Overview, width: int) -> RenderableType:
    rates, queue = told.rates, told.delivery_queue
    tiles = [
        (f"{rate(rates.events_per_second)}/s", "events", ""),
        (f"{rate(rates.deliveries_per_second)}/s", "delivered", ""),
        (percent(told.success_rate.deliveries), "success rate", ""),
        (duration(told.commit_to_client.p50_seconds), "commit → client", ""),
        (duration(told.commit_to_acknowledged.p50_seconds), "commit → receiver", ""),
        (_counted(told.outbox), "in the outbox", "yellow" if told.outbox.count else ""),
        (_counted(queue.due), "deliveries due", ""),
        (number(sum(each.clients for each in told.bridges)), "clients", ""),
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


def _courses(told: Overview, width: int) -> RenderableType:
    points = told.points[:-1]  # the last is not over yet
    seconds = told.point_seconds or 1
    bars = max(10, min(len(points), width - 52))
    table = Table.grid(padding=(0, 2))
    minutes = round(seconds * min(bars, len(points)) / 60)
    courses: list[tuple[str, list[float | None], str]] = [
        (
            "events/s",
            [each.events / seconds if each.bridges else None for each in points],
            _most([each.events / seconds for each in points], rate, "/s"),
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
            _delay(told.commit_to_client),
        ),
        (
            "commit → receiver, p95",
            [each.commit_to_acknowledged.p95_seconds for each in points],
            _delay(told.commit_to_acknowledged),
        ),
    ]
    for name, values, said in courses:
        table.add_row(Text(name, "dim"), Text(bar_chart(values[-bars:]), "cyan"), said)
    return Panel(table, title=f"the last {minutes} min", title_align="left", box=box.ROUNDED)


def _facts(told: Overview) -> RenderableType:
    queue, doorbell = told.delivery_queue, told.doorbell
    words = {True: "commits ring", False: "quiet: the bridge looks by itself", None: "not known"}
    outbox = _counted(told.outbox)
    if told.outbox.oldest_seconds is not None:
        outbox += f", the oldest has waited {duration(told.outbox.oldest_seconds)}"
    waiting = (
        f"due {_counted(queue.due)}, in flight {_counted(queue.in_flight)}, "
        f"to be tried again {_counted(queue.scheduled)}, held {_counted(queue.held)}"
    )
    if queue.oldest_due_seconds is not None:
        waiting += f"; the oldest has been due for {duration(queue.oldest_due_seconds)}"
    drainer = "no bridge"
    if told.drainer.alive:
        drainer = told.drainer.bridge or "a bridge"
        if told.drainer.leading_seconds is not None:
            drainer += f", for {duration(told.drainer.leading_seconds)}"
    webhooks = Text()
    for state, count in told.webhooks.items():
        if count:
            webhooks.append(f"{state} {count}  ", _STATE_COLOURS.get(state, ""))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("draining", drainer)
    table.add_row("doorbell", f"{words[doorbell.rings]} ({doorbell.mode or 'no mode yet'})")
    table.add_row("outbox", outbox)
    table.add_row("deliveries", waiting)
    table.add_row("webhooks", webhooks or "none")
    for each in told.bridges:
        clients = f"clients {number(each.clients)}, deliveries in flight {number(each.in_flight)}"
        table.add_row("running", f"{each.bridge}, {each.version}, {clients}")
    if told.last_event is not None:
        occurred = f"{told.last_event.occurred_at:%Y-%m-%d %H:%M:%S} UTC"
        table.add_row("last event", f"{told.last_event.id}, of {occurred}")
    return table


def bar_chart(values: Sequence[float | None]) -> str:
    """Draw values as bars of a character each; a space where there is none."""
    most = max((value for value in values if value is not None), default=0.0)
    return "".join(
        " " if value is None else _BARS[round((len(_BARS) - 1) * value / most) if most else 0]
        for value in values
    )


def _most(values: Sequence[float], spell: Callable[[float], str], unit: str) -> str:
    return f"most {spell(max(values, default=0.0))}{unit}"


def _delay(delay: Delay) -> str:
    return f"p50 {duration(delay.p50_seconds)}, p95 {duration(delay.p95_seconds)}"


def _counted(queue: Counted | Outbox) -> str:
    return f"{'over ' if queue.more else ''}{number(queue.count)}"
