"""``pgbridge doctor`` and ``pgbridge status``."""

import os
import signal
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from bridge.cli.context import database_session, one_line_errors, read_rules, read_settings
from bridge.cli.output import FAILED
from bridge.database.sessions import Connection, open_session
from bridge.operations import status_screen
from bridge.operations.doctor.examine import examine
from bridge.operations.doctor.framework import Finding
from bridge.operations.status import Status, read_status
from bridge.settings import Settings
from bridge.terminal.output import Terminal, say, show, show_json
from bridge.terminal.visible import visible

#: How long ``status --watch`` waits for a table that another session has locked.
WATCH_LOCK_SECONDS = 5

LEVEL_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def doctor(
    as_json: AsJson = False,
    end_orphans: Annotated[
        bool,
        typer.Option("--end-orphans", help="End sessions of bridges that are gone."),
    ] = False,
) -> None:
    """Check the installation and explain how to fix problems."""
    settings = read_settings()
    findings = examine(settings, read_rules(settings), end_orphans=end_orphans)
    failed = any(finding.level == "error" for finding in findings)
    if as_json:
        show_json({"ok": not failed, "findings": [asdict(each) for each in findings]})
    else:
        _print_findings(findings)
    raise typer.Exit(FAILED if failed else 0)


def status(
    as_json: AsJson = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh every two seconds until Ctrl-C.")
    ] = False,
) -> None:
    """Show backlogs, rates and running bridges."""
    settings = read_settings()
    if watch:
        _watch_status(settings, as_json=as_json)
        return
    with database_session(settings) as connection:
        current = read_status(connection)
    if as_json:
        show_json(current.to_json())
        return
    _show_status(current)


def _watch_status(settings: Settings, *, as_json: bool) -> None:
    """Show the status repeatedly: a full screen on a terminal, otherwise JSON or lines."""

    @contextmanager
    def connect() -> Iterator[Connection]:
        with open_session(settings.session_url) as connection:
            # Report a locked table instead of showing an old frame.
            connection.execute(f"set lock_timeout = '{WATCH_LOCK_SECONDS}s'".encode())
            yield connection

    def write(status: Status | None, problem: str) -> None:
        if status is None:
            say(f"pgbridge: {problem}")
        elif as_json:
            show_json(status.to_json())
        else:
            _show_status(status)
            show("")

    console = Terminal()
    # Treat SIGTERM as Ctrl-C, so that the terminal gets its cursor and screen back.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with one_line_errors(), suppress(KeyboardInterrupt):
        try:
            if as_json or not console.is_terminal:
                status_screen.watch(connect, write)
            else:
                with status_screen.Screen(console) as screen:
                    status_screen.watch(connect, screen.show)
        except BrokenPipeError:
            # The reader has left; discard what is still buffered.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_status(status: Status) -> None:
    for name, value in status.lines():
        show(f"{name:<16}{value}")


def _print_findings(findings: Sequence[Finding]) -> None:
    """Print one line per finding, wrapped and indented on a terminal."""
    console = Terminal()
    counts: Counter[str] = Counter(finding.level for finding in findings)
    margin = " " * len("warning  ")
    for finding in findings:
        text = visible(f"{finding.check}: {finding.message}")
        if finding.detail:
            detail, hint = visible(finding.detail), visible(finding.hint)
            text += f"\n{margin}detail: {detail}\n{margin}hint: {hint}"
        if console.is_terminal:
            text = "\n".join(
                textwrap.fill(line, console.width, subsequent_indent=margin + "  ")
                for line in (margin + text).splitlines()
            ).removeprefix(margin)
        mark = f"{finding.level:<{len(margin)}}"
        console.print(Text.assemble((mark, LEVEL_STYLES[finding.level]), text), soft_wrap=True)
    console.print(", ".join(f"{level}: {counts[level]}" for level in LEVEL_STYLES))
