"""`pgbridge status --watch`, as people and scripts run it."""

from __future__ import annotations

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

#: How long a command may take for anything.
PATIENCE_SECONDS = 60.0

#: What a terminal is told.
ENTER_SCREEN, LEAVE_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"


@contextmanager
def watching(
    url: str, *arguments: str, terminal: bool = False
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run it; yields the process, and what its output can be read from."""
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
    """Read until the pattern has come; return all that has."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not re.search(pattern.encode(), shown):
        assert time.monotonic() < deadline, shown
        shown += os.read(reading, 65536)
    return shown


def test_for_scripts_it_prints_an_object_a_line_until_it_is_interrupted(bridge_url: str) -> None:
    with watching(bridge_url, "--json") as (process, reading):
        lines = read_until(reading, r"\n.*\n").splitlines()
        for line in lines[:2]:
            told = json.loads(line)
            assert told["overview"]["webhooks"]["delivering"] == 0
            assert told["overview"]["point_seconds"] == 20
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_it_ends_without_a_word_when_nobody_reads_any_more(bridge_url: str) -> None:
    with watching(bridge_url, "--json") as (process, reading):
        read_until(reading, r"\n")
        os.close(reading)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_in_a_terminal_it_draws_a_frame_and_leaves_the_last_one(
    bridge_url: str, bot: psycopg.Connection[object]
) -> None:
    with watching(bridge_url, terminal=True) as (process, reading):
        shown = read_until(reading, "no bridge drains")
        # Somebody ends its session, and it goes on with another; what is new is in the next frame.
        bot.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'pgbridge-init' and datname = current_database()"
        )
        shown = read_until(reading, "not of now", shown)
        bot.execute("select bridge.emit('a.b', '{}') from generate_series(1, 3)")
        # Each frame begins at the left upper corner.
        shown = read_until(reading, r"3, the oldest has waited", shown)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert b"Traceback" not in shown


def test_whichever_signal_ends_it_the_terminal_is_as_it_was(bridge_url: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with watching(bridge_url, terminal=True) as (process, reading):
            shown = read_until(reading, "no bridge drains")
            assert ENTER_SCREEN in shown
            process.send_signal(number)
            # It goes back to the screen before, shows the cursor, and leaves the last frame there.
            shown = read_until(reading, f"{re.escape(LEAVE_SCREEN.decode())}(?s:.*)doorbell", shown)
            assert shown.rfind(SHOW_CURSOR) > shown.rfind(HIDE_CURSOR) >= 0
            assert process.wait(PATIENCE_SECONDS) == 0
            assert b"Traceback" not in shown


def test_a_database_that_stands_still_is_told_as_such(
    bridge_url: str, bot: psycopg.Connection[Any]
) -> None:
    with watching(bridge_url, terminal=True) as (_, reading):
        shown = read_until(reading, "no bridge drains")
        rows = bot.execute(
            "select pid from pg_stat_activity"
            " where application_name = 'pgbridge-init' and datname = current_database()"
        ).fetchall()
        for (pid,) in rows:
            os.kill(pid, signal.SIGSTOP)
        try:
            shown = read_until(reading, "not of now.*has not answered for 5 s", shown)
        finally:
            for (pid,) in rows:
                os.kill(pid, signal.SIGCONT)
        bot.execute("select bridge.emit('a.b', '{}') from generate_series(1, 3)")
        read_until(reading, "3, the oldest has waited", shown)


def test_tables_that_somebody_has_locked_are_told_as_such(
    bridge_url: str, bot: psycopg.Connection[object]
) -> None:
    with watching(bridge_url, terminal=True) as (_, reading):
        shown = read_until(reading, "no bridge drains")
        with bot.transaction():
            bot.execute("lock table bridge.webhooks in access exclusive mode")
            shown = read_until(reading, "not of now.*lock timeout", shown)
        bot.execute("select bridge.emit('a.b', '{}') from generate_series(1, 3)")
        read_until(reading, "3, the oldest has waited", shown)


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_a_database_that_is_not_there_is_told_in_a_line(option: tuple[str, ...]) -> None:
    url = "postgresql://nobody@127.0.0.1:1/nothing"
    line = complaint(pgbridge("status", "--watch", *option, url=url), 1)
    assert "cannot connect to the database" in line


def test_a_database_without_the_schema_is_told_in_a_line(bot_url: str) -> None:
    assert "run: pgbridge init" in complaint(pgbridge("status", "--watch", url=bot_url), 1)
