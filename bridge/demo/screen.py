"""Show the demo: a live frame on a terminal, otherwise a line every few seconds."""

import math
import time
import unicodedata
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
from rich import box
from rich.align import Align
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from bridge.demo.ledger import Account, Ledger, percentile
from bridge.demo.receiver import Receiver
from bridge.demo.watch import Dashboard

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
_BARS = "▁▂▃▄▅▆▇█"

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


@dataclass(frozen=True, slots=True)
class Arrival:
    """One event as the dashboard received it."""

    clock: str
    message: Mapping[str, Any]
    latency_seconds: float | None


@dataclass(slots=True)
class Scene:
    """Everything shown; the demo writes it, this module reads it."""

    ledger: Ledger
    seconds: float | None
    phase: str = "starting"
    commits: int = 0
    rollbacks: int = 0
    began_at: float | None = None  # time.monotonic() when the bot started
    ended_at: float | None = None
    receiver: Receiver | None = None
    dashboard: Dashboard | None = None
    feed: deque[Arrival] = field(default_factory=lambda: deque(maxlen=_FEED_ROWS))
    #: Events committed in each second of the last minute.
    rhythm: deque[int] = field(default_factory=lambda: deque([0], maxlen=60))
    _rhythm_second: int = 0

    def beat(self, events: int) -> None:
        """Count events committed now."""
        second = int(self.elapsed())
        for _ in range(min(second - self._rhythm_second, 60)):
            self.rhythm.append(0)
        self._rhythm_second = max(second, self._rhythm_second)
        self.rhythm[-1] += events

    def elapsed(self) -> float:
        """Return how many seconds the bot has run."""
        if self.began_at is None:
            return 0.0
        return (self.ended_at or time.monotonic()) - self.began_at

    @property
    def turned_away(self) -> int:
        return self.receiver.turned_away if self.receiver else 0

    @property
    def retried(self) -> int:
        return self.receiver.came_back if self.receiver else 0

    @property
    def reconnections(self) -> int:
        return self.dashboard.reconnections if self.dashboard else 0

    def overdue(self) -> int:
        """Return how many events look lost."""
        return self.ledger.overdue(time.monotonic() - LOST_AFTER_SECONDS)


async def show_frames(scene: Scene, console: Console) -> None:
    """Draw the live frame until cancelled; the last frame stays."""
    with (
        _no_wrapping(console),
        Live(console=console, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        try:
            while True:
                # In a thread: drawing a frame takes longer than handling an event.
                draw = partial(live.update, frame(scene, console), refresh=True)
                await trio.to_thread.run_sync(draw)
                await trio.sleep(_FRAME_SECONDS)
        finally:
            live.update(frame(scene, console), refresh=True)


@contextmanager
def _no_wrapping(console: Console) -> Iterator[None]:
    """Make the terminal truncate long lines.

    Terminals disagree about the width of emoji; a wrapped line would shift the next frame.
    """
    console.file.write("\x1b[?7l")
    try:
        yield
    finally:
        console.file.write("\x1b[?7h")
        console.file.flush()


async def print_lines(scene: Scene) -> None:
    """Print a plain line every few seconds until cancelled."""
    while True:
        await trio.sleep(PLAIN_LINE_SECONDS)
        print(plain_line(scene), flush=True)


def plain_line(scene: Scene) -> str:
    """Return the totals in one line."""
    ledger, overdue = scene.ledger, scene.overdue()
    stream, verified = ledger.stream, _all_latencies(ledger)
    return (
        f"{scene.phase} {scene.elapsed():.0f} s: {ledger.events_committed} committed, "
        f"{stream.matched} streamed, {ledger.deliveries_verified} verified, "
        f"{scene.retried} of {scene.turned_away} retried, {ledger.lost - overdue} in flight, "
        f"{overdue} lost; median/p95 ms: WebSocket {_pair(stream.latencies)}, "
        f"webhook {_pair(verified)}"
    )


def frame(scene: Scene, console: Console) -> RenderableType:
    """Return the live frame, as large as the terminal allows."""
    width = min(console.width, _WIDEST)
    rows = max(1, min(_FEED_ROWS, console.height - _FRAME_LINES))
    content = Group(
        _title(scene, width),
        Text(),
        _counters(scene),
        _latencies(scene, width),
        Rule("last events on the stream", style="grey37", align="left"),
        _feed(scene, rows, width),
    )
    outer = Table.grid(padding=0)
    outer.add_column(width=width - 1)
    outer.add_row(content)
    return outer


def _title(scene: Scene, width: int) -> RenderableType:
    colour = _PHASE_COLOURS.get(scene.phase, "cyan")
    line = Table.grid(padding=(0, 2), expand=True)
    line.add_column(no_wrap=True)
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True)
    done: RenderableType = Text()
    clock = _clock(scene.elapsed())
    if scene.seconds is not None:
        done = ProgressBar(total=scene.seconds, completed=min(scene.elapsed(), scene.seconds))
        clock += f" of {_clock(scene.seconds)}"
    else:
        done = Text(_HINTS.get(scene.phase, ""), style="grey50")
    line.add_row(
        Text(" pgbridge demo ", style="bold white on blue"),
        Text(f"● {scene.phase}", style=f"bold {colour}"),
        done,
        Text(clock, style="bold"),
    )
    return line


def _counters(scene: Scene) -> RenderableType:
    ledger, overdue = scene.ledger, scene.overdue()
    in_flight = ledger.lost - overdue
    wrong = ledger.unexpected if scene.phase != "running" else 0
    bad = overdue + wrong
    cards = [
        (_grouped(ledger.events_committed), "committed", "bold bright_white"),
        (_grouped(ledger.stream.matched), "streamed", "bold bright_cyan"),
        (_grouped(ledger.deliveries_verified), "verified", "bold bright_green"),
        (f"{scene.retried}/{scene.turned_away}", "retried", "bold bright_yellow"),
        (_grouped(in_flight), "in flight", "bold" if in_flight else "dim"),
        (_grouped(bad), "lost or odd" if wrong else "lost", "bold red" if bad else "bold green"),
    ]
    grid = Table.grid(expand=True)
    panels = []
    for number, label, style in cards:
        grid.add_column(ratio=1)
        panels.append(
            Panel(
                Group(
                    Align.center(Text(number, style=style)),
                    Align.center(Text(label, style="grey62", no_wrap=True)),
                ),
                box=box.ROUNDED,
                border_style="red" if label.startswith("lost") and bad else "grey37",
                padding=0,
            )
        )
    grid.add_row(*panels)
    return grid


def _latencies(scene: Scene, width: int) -> RenderableType:
    ledger = scene.ledger
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(no_wrap=True, min_width=27)
    table.add_column(no_wrap=True, min_width=16)
    table.add_column(no_wrap=True, min_width=13)
    table.add_column(no_wrap=True, ratio=1, justify="right")
    bars = max(8, min(60, width - 72))
    facts = Text(f"{scene.commits} transactions, {scene.rollbacks} rolled back", style="grey62")
    if scene.reconnections:
        facts.append(f", {scene.reconnections} reconnected", style="yellow")
    rate = Text.assemble(
        (_sparkline(scene.rhythm, bars), "cyan"), (f" {_rate(scene.rhythm):.0f}/s", "bold")
    )
    webhooks = _all_latencies(ledger)
    for label, values, beside in (
        ("commit → WebSocket", ledger.stream.latencies, rate),
        ("commit → webhook verified", webhooks, facts if width >= 104 else Text()),
    ):
        table.add_row(
            Text(f" {label}", style="grey70"),
            Text.assemble(("median ", "grey50"), (_milliseconds(percentile(values, 0.5)), "bold")),
            Text.assemble(("p95 ", "grey50"), (_milliseconds(percentile(values, 0.95)), "bold")),
            beside,
        )
    return table


def _feed(scene: Scene, rows: int, width: int) -> RenderableType:
    # User text comes last, with a margin: terminals disagree about the width of some characters.
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, style="grey50")
    table.add_column(no_wrap=True, style="grey50", justify="right", min_width=4)
    table.add_column(no_wrap=True, min_width=22)
    table.add_column(no_wrap=True, style="grey50", justify="right", min_width=7)
    room = max(10, width - 54)
    table.add_column(no_wrap=True, width=room, overflow="ellipsis")
    shown = list(scene.feed)[-rows:]
    for arrival in shown:
        event_type = str(arrival.message["type"])
        colour = _COLOURS.get(event_type, "red")
        summary = Text(_summary(event_type, arrival.message["payload"]))
        summary.truncate(room, overflow="ellipsis")
        table.add_row(
            f" {arrival.clock}",
            f"{arrival.message['id']}",
            Text(event_type, style=colour),
            _milliseconds(arrival.latency_seconds),
            summary,
        )
    for _ in range(rows - len(shown)):  # the frame keeps its height
        table.add_row("", "", "", "", "")
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
    return "".join(
        character
        for character in one_line
        if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn")
        and character not in _MODIFIERS
    )


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")


def _rubles(amount: object) -> str:
    number = float(amount) if isinstance(amount, int | float) else math.nan
    return f"{number:,.2f} ₽".replace(",", "\u202f").replace(".00 ", " ")


def _all_latencies(ledger: Ledger) -> deque[float]:
    merged: deque[float] = deque()
    for account in ledger.webhooks.values():
        merged.extend(_first_attempts(account))
    return merged


def _first_attempts(account: Account) -> list[float]:
    """Return the latencies of an account without those of retries, which wait for seconds."""
    return [latency for latency in account.latencies if latency < 3.0]


def _pair(values: deque[float]) -> str:
    return f"{_number(percentile(values, 0.5))}/{_number(percentile(values, 0.95))}"


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{_number(seconds)} ms"


def _number(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1000:.1f}" if seconds < 0.0995 else f"{seconds * 1000:.0f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def _sparkline(counts: deque[int], width: int) -> str:
    # Leave out the current second, which is incomplete.
    shown = list(counts)[:-1][-width:]
    highest = max([1, *shown])
    return "".join(_BARS[round(count / highest * (len(_BARS) - 1))] for count in shown)


def _rate(counts: deque[int]) -> float:
    recent = list(counts)[:-1][-10:]
    return sum(recent) / len(recent) if recent else 0.0
