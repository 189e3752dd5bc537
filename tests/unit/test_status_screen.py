"""``pgbridge status --watch`` draws the overview."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from bridge.capture.blindness import BlindRule
from bridge.operations.overview import Overview, overview
from bridge.operations.status_screen import bar_chart, frame
from bridge.telemetry.histogram import BOUNDS
from bridge.terminal.output import Terminal

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
NOTHING = [0] * (len(BOUNDS) + 1)
QUICK = [0, 0, 10, *NOTHING[3:]]


def figures(*, busy: bool) -> Overview:
    """Return the overview of a database with one busy bridge, or with none."""
    state = {
        "at": NOON,
        "outbox_count": 10_001 if busy else 0,
        "outbox_oldest_seconds": 3.5 if busy else None,
        "deferred_count": 0,
        "deferred_oldest_seconds": None,
        "dead_letters_count": 0,
        "dead_letters_oldest_seconds": None,
        "due_count": 7 * busy,
        "scheduled_count": 5 * busy,
        "held_count": 0,
        "oldest_due_seconds": 0.2 if busy else None,
        **{
            f"webhooks_{state}": 0
            for state in ("delivering", "failing", "paused", "disabled", "off")
        },
        "webhooks_failing": 1 * busy,
        "drainer_pid": 4711 if busy else None,
        "drainer": "shop:42" if busy else None,
        "leading_seconds": 300.0 if busy else None,
        "doorbell_mode": "adaptive" if busy else None,
        "rings": False if busy else None,
        "switches": 3 if busy else None,
        "switched_seconds": 4.0 if busy else None,
        "last_event_id": 812 if busy else None,
        "last_event_occurred_at": NOON if busy else None,
    }
    running: dict[str, Any] = {
        "bridge": "shop:42",
        "version": "0.1.0",
        "clients": 1234,
        "in_flight": 3,
        "reported_seconds": 2.0,
        "covered_seconds": 60.0,
        "events_drained": 2400,
        "events_streamed": 240,
        "delivered": 600,
        "attempts": 660,
    }
    points = [
        {
            "at": NOON + timedelta(seconds=20 * number),
            "bridges": 1 * busy,
            "clients": 3 * busy,
            "clients_dropped": 0,
            "events": 100 * number * busy,
            "streamed": 0,
            "delivered": 30 * busy,
            "retried": 2 * busy,
            "failed": 1 * busy,
            "commit_to_client": QUICK if busy else NOTHING,
            "commit_to_acknowledged": QUICK if busy else NOTHING,
        }
        for number in range(46)
    ]
    return overview(state, [running] if busy else [], [], points)


def drawn(figures: Overview, problem: str = "", width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    console.print(frame(figures, problem, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().replace("\u202f", " ")


def test_busy_bridge_is_shown_with_its_queues() -> None:
    screen = drawn(figures(busy=True))
    for fact in (
        "40.0/s",
        "10.0/s",
        "96.8 %",
        "over 10 000, the oldest 3.5 s",
        "due 7, in flight 3, scheduled 5, held 0; the oldest has been due for 200 ms",
        "shop:42, for 5.0 min",
        "quiet: the bridge polls (adaptive)",
        "failing 1",
        "shop:42, 0.1.0, clients 1 234, deliveries in flight 3",
        "812, at 2026-01-15 12:00:00 UTC",
        "failed in 15 min: 135",
        "last 15 min",
    ):
        assert fact in screen, screen


def test_blind_rules_are_shown() -> None:
    blind = [BlindRule("user.created", "public.users", "trigger_missing")]
    assert "captures nothing: user.created: its trigger was dropped" in drawn(
        replace(figures(busy=True), blind_rules=blind)
    )


def test_names_of_bridges_cannot_control_the_terminal() -> None:
    hostile = "shop\x1b[2J\x9b31m\u202e:42\n[red]"
    shown = figures(busy=True)
    drainer = replace(shown.drainer, bridge=hostile)
    bridges = [replace(each, bridge=hostile, version=hostile) for each in shown.bridges]
    terminal = Terminal()
    with terminal.capture() as captured:
        terminal.print(frame(replace(shown, drainer=drainer, bridges=bridges), hostile, 110))
    screen = captured.get().replace("\u202f", " ").replace("\n", "")
    assert screen.isprintable()
    assert screen.count("u001b[2J") == 4
    assert "[red]" in screen


def test_missing_bridge_is_reported() -> None:
    screen = drawn(figures(busy=False))
    assert "no bridge is draining; events wait in the outbox" in screen
    assert "unknown (no mode)" in screen


def test_outdated_figures_are_marked() -> None:
    assert "out of date: the database is down" in drawn(figures(busy=True), "the database is down")


@pytest.mark.parametrize("width", [40, 80, 110, 200])
@pytest.mark.parametrize("busy", [True, False])
def test_lines_fit_the_terminal(width: int, busy: bool) -> None:
    lines = drawn(figures(busy=busy), width=width).splitlines()
    assert max(map(len, lines)) <= width


def test_bars_are_proportional_to_their_values() -> None:
    assert bar_chart([0, 1, 2, None, 4]) == "▁▃▅ █"
    assert bar_chart([0, 0]) == "▁▁"
    assert bar_chart([]) == ""
