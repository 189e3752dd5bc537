"""Show the demo: a live frame on a terminal, otherwise a line every few seconds."""

import math
import time
import unicodedata
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import trio
from rich import box
from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Column, Table
from rich.text import Text

from bridge.demo.ledger import Ledger, percentile
from bridge.demo.receiver import Receiver
from bridge.demo.watch import Dashboard
from bridge.operations.formatting import number
from bridge.operations.status_screen import bar_chart
from bridge.terminal.output import show

#: After this long, a missing event is shown as lost; a retry takes six seconds.
LOST_AFTER_SECONDS = 15.0
PLAIN_LINE_SECONDS = 5.0
_FRAME_SECONDS = 0.25
_FEED_ROWS = 14
# Lines of the frame besides the feed.
_FRAME_LINES = 14
_WIDEST = 140
# Variation selectors and skin tones, which some terminals show in a separate cell.
_MODIFIERS = frozenset("\ufe0e\ufe0f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")

_COLOURS = {
    "user.created": "bright_cyan",
    "transaction.created": "bright_blue",
    "payment.completed": "bright_green",
    "ticket.created": "bright_yellow",
    "ticket.status_changed": "bright_magenta",
    "ticket.message_added": "bright_white",
}
_PHASE_COLOURS = {
    "running": "green",
    "settling": "yellow",
    "all arrived": "green",
    "failed": "red",
}
_HINTS = {
    "running": "Ctrl-C stops the bot and prints totals",
    "settling": "waiting for retries; Ctrl-C quits",
}


@dataclass(slots=True)
class Scene:
    """Everything shown; the demo writes it, this module reads it."""

    ledger: Ledger
    receiver: Receiver
    dashboard: Dashboard
    seconds: float | None
    phase: str = "starting"
    commits: int = 0
    rollbacks: int = 0
    began_at: float | None = None  # time.monotonic() when the bot started
    ended_at: float | None = None
    #: Events as the dashboard received them: time of day, message, and seconds since the commit.
    feed: deque[tuple[str, Mapping[str, Any], float | None]] = field(
        default_factory=lambda: deque(maxlen=_FEED_ROWS)
    )
    #: Events committed in each second of the last minute.
    rhythm: deque[int] = field(default_factory=lambda: deque([0], maxlen=60))
    _rhythm_second: int = 0

    def beat(self, events: int) -> None:
        """Count events committed now."""
        second = int(self.elapsed())
        self.rhythm.extend([0] * min(second - self._rhythm_second, 60))
        self._rhythm_second = second
        self.rhythm[-1] += events

    def elapsed(self) -> float:
        """Return how many seconds the bot has run."""
        if self.began_at is None:
            return 0.0
        return (self.ended_at or time.monotonic()) - self.began_at

    def overdue(self) -> int:
        """Return how many events look lost."""
        return self.ledger.overdue(time.monotonic() - LOST_AFTER_SECONDS)


async def show_frames(scene: Scene, console: Console) -> None:
    """Draw the live frame until cancelled; the last frame stays."""
    # Make the terminal truncate long lines: terminals disagree about the width of emoji, and a
    # wrapped line would shift the next frame.
    console.file.write("\x1b[?7l")
    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            try:
                while True:
                    # In a thread: drawing a frame takes longer than handling an event.
                    draw = partial(live.update, frame(scene, console), refresh=True)
                    await trio.to_thread.run_sync(draw)
                    await trio.sleep(_FRAME_SECONDS)
            finally:
                live.update(frame(scene, console))
    finally:
        console.file.write("\x1b[?7h")
        console.file.flush()


async def print_lines(scene: Scene) -> None:
    """Print a plain line every few seconds until cancelled."""
    while True:
        await trio.sleep(PLAIN_LINE_SECONDS)
        show(plain_line(scene))


def plain_line(scene: Scene) -> str:
    """Return the totals in one line."""
    ledger, receiver, overdue = scene.ledger, scene.receiver, scene.overdue()
    streamed, verified = (
        "/".join(_milliseconds(percentile(latencies, share)) for share in (0.5, 0.95))
        for latencies in (ledger.stream.latencies, _webhook_latencies(ledger))
    )
    return (
        f"{scene.phase} {scene.elapsed():.0f} s: {ledger.events_committed} committed, "
        f"{ledger.stream.matched} streamed, {ledger.deliveries_verified} verified, "
        f"{receiver.came_back} of {receiver.turned_away} retried, "
        f"{ledger.lost - overdue} in flight, {overdue} lost; "
        f"median/p95 ms: WebSocket {streamed}, webhook {verified}"
    )


def frame(scene: Scene, console: Console) -> RenderableType:
    """Return the live frame, as large as the terminal allows."""
    width = min(console.width, _WIDEST)
    rows = max(1, min(_FEED_ROWS, console.height - _FRAME_LINES))
    content = Group(
        _title(scene),
        Text(),
        _counters(scene),
        _latencies(scene, width),
        Rule("last events on the stream", style="grey37", align="left"),
        _feed(scene, rows, width),
    )
    return Constrain(content, width - 1)


def _title(scene: Scene) -> RenderableType:
    colour = _PHASE_COLOURS.get(scene.phase, "cyan")
    clock = _clock(scene.elapsed())
    middle: RenderableType = Text(_HINTS.get(scene.phase, ""), "grey50")
    if scene.seconds is not None:
        middle = ProgressBar(total=scene.seconds, completed=min(scene.elapsed(), scene.seconds))
        clock += f" of {_clock(scene.seconds)}"
    line = Table.grid(
        Column(no_wrap=True),
        Column(no_wrap=True),
        Column(ratio=1),
        Column(no_wrap=True, justify="right"),
        padding=(0, 2),
        expand=True,
    )
    line.add_row(
        Text(" pgbridge demo ", "bold white on blue"),
        Text(f"● {scene.phase}", f"bold {colour}"),
        middle,
        Text(clock, "bold"),
    )
    return line


def _counters(scene: Scene) -> RenderableType:
    ledger, receiver, overdue = scene.ledger, scene.receiver, scene.overdue()
    in_flight = ledger.lost - overdue
    wrong = ledger.unexpected if scene.phase != "running" else 0
    bad = overdue + wrong
    cards = [
        (number(ledger.events_committed), "committed", "bold bright_white"),
        (number(ledger.stream.matched), "streamed", "bold bright_cyan"),
        (number(ledger.deliveries_verified), "verified", "bold bright_green"),
        (f"{receiver.came_back}/{receiver.turned_away}", "retried", "bold bright_yellow"),
        (number(in_flight), "in flight", "bold" if in_flight else "dim"),
        (number(bad), "lost or odd" if wrong else "lost", "bold red" if bad else "bold green"),
    ]
    grid = Table.grid(*(Column(ratio=1) for _ in cards), expand=True)
    grid.add_row(
        *(
            Panel(
                Text.assemble(
                    (value, style), "\n", (label, "grey62"), justify="center", no_wrap=True
                ),
                box=box.ROUNDED,
                border_style="red" if style == "bold red" else "grey37",
                padding=0,
            )
            for value, label, style in cards
        )
    )
    return grid


def _latencies(scene: Scene, width: int) -> RenderableType:
    past = list(scene.rhythm)[:-1]  # without the current second, which is incomplete
    rate = sum(past[-10:]) / max(1, len(past[-10:]))
    bars = max(8, min(60, width - 72))
    rhythm = Text.assemble((bar_chart(past[-bars:]), "cyan"), (f" {rate:.0f}/s", "bold"))
    facts = Text()
    if width >= 104:
        facts.append(f"{scene.commits} transactions, {scene.rollbacks} rolled back", "grey62")
        if scene.dashboard.reconnections:
            facts.append(f", {scene.dashboard.reconnections} reconnected", "yellow")
    table = Table.grid(
        Column(no_wrap=True, min_width=27, style="grey70"),
        Column(no_wrap=True, min_width=16),
        Column(no_wrap=True, min_width=13),
        Column(no_wrap=True, ratio=1, justify="right"),
        padding=(0, 2),
        expand=True,
    )
    for label, latencies, beside in (
        ("commit → WebSocket", scene.ledger.stream.latencies, rhythm),
        ("commit → webhook verified", _webhook_latencies(scene.ledger), facts),
    ):
        median, slow = (_milliseconds(percentile(latencies, s), " ms") for s in (0.5, 0.95))
        table.add_row(
            f" {label}",
            Text.assemble(("median ", "grey50"), (median, "bold")),
            Text.assemble(("p95 ", "grey50"), (slow, "bold")),
            beside,
        )
    return table


def _feed(scene: Scene, rows: int, width: int) -> RenderableType:
    room = max(10, width - 54)
    # User text comes last, with a margin: terminals disagree about the width of some characters.
    table = Table.grid(
        Column(no_wrap=True, style="grey50"),
        Column(no_wrap=True, style="grey50", justify="right", min_width=4),
        Column(no_wrap=True, min_width=22),
        Column(no_wrap=True, style="grey50", justify="right", min_width=7),
        Column(no_wrap=True, width=room),
        padding=(0, 1),
    )
    shown = list(scene.feed)[-rows:]
    for clock, message, latency in shown:
        event_type = str(message["type"])
        summary = Text(_summary(event_type, message["payload"]))
        summary.truncate(room, overflow="ellipsis")
        table.add_row(
            f" {clock}",
            str(message["id"]),
            Text(event_type, _COLOURS.get(event_type, "red")),
            _milliseconds(latency, " ms"),
            summary,
        )
    for _ in range(rows - len(shown)):  # the frame keeps its height
        table.add_row()
    return table


def _summary(event_type: str, payload: Mapping[str, Any]) -> str:
    """Describe an event in words that are safe to print."""
    get = payload.get
    match event_type:
        case "user.created":
            name = " ".join(filter(None, (get("first_name"), get("last_name"))))
            handle = f"@{get('username')}" if get("username") else ""
            how = "by e-mail" if get("telegram_id") is None else ""
            words = " ".join(filter(None, (name, handle, how)))
        case "transaction.created":
            state = "" if get("is_completed") else ", not completed yet"
            words = f"{_rubles(get('amount_rubles'))} {get('type')}{state}"
        case "payment.completed":
            words = f"{_rubles(get('amount_rubles'))} {get('payment_method') or ''}"
        case "ticket.created":
            words = f"#{get('ticket_id')} {get('title')} ({get('priority')})"
        case "ticket.status_changed":
            words = f"#{get('ticket_id')} {get('old_status')} → {get('new_status')}"
        case "ticket.message_added":
            author = "support" if get("is_from_admin") else "user"
            words = f"#{get('ticket_id')} {author}: {get('message_text')}"
        case _:
            words = str(dict(payload))
    return _printable(words)


def _printable(text: str) -> str:
    """Return the text on one line, without control and direction characters."""
    one_line = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(each for each in one_line if each.isprintable() and each not in _MODIFIERS)


def _rubles(amount: object) -> str:
    known = amount if isinstance(amount, int | float) else math.nan
    return f"{number(known, 2).removesuffix('.00')} ₽"


def _webhook_latencies(ledger: Ledger) -> list[float]:
    """Return the latencies of deliveries, without those of retries, which wait for seconds."""
    return [
        latency
        for account in ledger.webhooks.values()
        for latency in account.latencies
        if latency < 3.0
    ]


def _milliseconds(seconds: float | None, unit: str = "") -> str:
    if seconds is None:
        return "–"
    return f"{1000 * seconds:.{1 if seconds < 0.0995 else 0}f}{unit}"


def _clock(seconds: float) -> str:
    clock = str(timedelta(seconds=int(seconds)))
    return clock.removeprefix("0:")
