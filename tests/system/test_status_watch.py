"""``pgbridge status --watch`` in a terminal and in scripts."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest

from tests.system.processes import complaint, environment, pgbridge
from tests.waiting import PATIENCE_SECONDS

#: Control sequences of the terminal.
ENTER_SCREEN, LEAVE_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"


@contextmanager
def watching(
    url: str, *arguments: str, terminal: bool = False
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run the command; yield the process and the descriptor of its output."""
    reading, writing = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "bridge", "status", "--watch", *arguments],
        env={**environment(url), "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        cwd=tempfile.gettempdir(),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=writing if terminal else subprocess.PIPE,
    )
    os.close(writing)
    try:
        yield process, reading
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
        with suppress(OSError):
            os.close(reading)


def read_until(reading: int, pattern: str, shown: bytes = b"") -> bytes:
    """Read until the output matches; return all of it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not re.search(pattern.encode(), shown):
        assert time.monotonic() < deadline, shown
        shown += os.read(reading, 65536)
    return shown


def test_json_is_printed_line_by_line_until_interrupted(bridge_url: str) -> None:
    with watching(bridge_url, "--json") as (process, reading):
        lines = read_until(reading, r"\n.*\n").splitlines()
        for line in lines[:2]:
            overview = json.loads(line)["overview"]
            assert overview["webhooks"]["delivering"] == 0
            assert overview["point_seconds"] == 20
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_closed_pipe_ends_it_silently(bridge_url: str) -> None:
    with watching(bridge_url, "--json") as (process, reading):
        read_until(reading, r"\n")
        os.close(reading)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_screen_is_updated_after_a_reconnect(
    bridge_url: str, bot: psycopg.Connection[object]
) -> None:
    with watching(bridge_url, terminal=True) as (process, reading):
        shown = read_until(reading, "no bridge is draining")
        # When its session is terminated, it reconnects and draws the next frame.
        bot.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'pgbridge-init' and datname = current_database()"
        )
        shown = read_until(reading, "out of date", shown)
        bot.execute("select bridge.emit('a.b', '{}') from generate_series(1, 3)")
        shown = read_until(reading, r"3, the oldest", shown)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert b"Traceback" not in shown


def test_signals_restore_the_terminal(bridge_url: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with watching(bridge_url, terminal=True) as (process, reading):
            shown = read_until(reading, "no bridge is draining")
            assert ENTER_SCREEN in shown
            process.send_signal(number)
            # It leaves the alternate screen, shows the cursor, and prints the last frame.
            shown = read_until(reading, f"{re.escape(LEAVE_SCREEN.decode())}(?s:.*)doorbell", shown)
            assert shown.rfind(SHOW_CURSOR) > shown.rfind(HIDE_CURSOR) >= 0
            assert process.wait(PATIENCE_SECONDS) == 0
            assert b"Traceback" not in shown


def test_frozen_database_is_reported(bridge_url: str, bot: psycopg.Connection[Any]) -> None:
    with watching(bridge_url, terminal=True) as (_, reading):
        shown = read_until(reading, "no bridge is draining")
        rows = bot.execute(
            "select pid from pg_stat_activity"
            " where application_name = 'pgbridge-init' and datname = current_database()"
        ).fetchall()
        for (pid,) in rows:
            os.kill(pid, signal.SIGSTOP)
        try:
            shown = read_until(reading, "out of date.*has not answered for 5 s", shown)
        finally:
            for (pid,) in rows:
                os.kill(pid, signal.SIGCONT)
        bot.execute("select bridge.emit('a.b', '{}') from generate_series(1, 3)")
        read_until(reading, "3, the oldest", shown)


def test_locked_tables_are_reported(bridge_url: str, bot: psycopg.Connection[object]) -> None:
    with watching(bridge_url, terminal=True) as (_, reading):
        shown = read_until(reading, "no bridge is draining")
        with bot.transaction():
            bot.execute("lock table bridge.webhooks in access exclusive mode")
            shown = read_until(reading, "out of date.*lock timeout", shown)
        bot.execute("select bridge.emit('a.b', '{}') from generate_series(1, 3)")
        read_until(reading, "3, the oldest", shown)


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_unreachable_database_is_reported_in_one_line(option: tuple[str, ...]) -> None:
    url = "postgresql://user@127.0.0.1:1/nothing"
    line = complaint(pgbridge("status", "--watch", *option, url=url), 1)
    assert "cannot connect to the database" in line


def test_missing_schema_is_reported_in_one_line(bot_url: str) -> None:
    assert "run: pgbridge init" in complaint(pgbridge("status", "--watch", url=bot_url), 1)
