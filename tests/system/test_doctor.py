"""``pgbridge doctor`` and ``pgbridge status``, as people and scripts call them."""

import json
import os
import pty
import re
import subprocess
import sys
import tempfile
from typing import Any

import psycopg
import trio

from bridge.operations.doctor.examine import CHECKS
from tests.system.processes import environment, listening, pgbridge, running
from tests.waiting import PATIENCE_SECONDS

NOWHERE = "postgresql://user:hunter2@127.0.0.1:1/nothing"


def told(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the one JSON object that the command printed."""
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def levels(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {finding["check"]: finding["level"] for finding in told(result)["findings"]}


async def test_running_bridge_is_healthy(bridge_url: str) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        # In other modes, the doctor warns that the test server allows prepared transactions.
        async with running(bridge_url, doorbell="poll") as bridge, listening(bridge) as dashboard:
            with psycopg.connect(bridge_url) as bot:
                bot.execute("insert into users (auth_type) values ('telegram')")
            event = json.loads(await dashboard.get_message())
            examined = await trio.to_thread.run_sync(
                lambda: pgbridge("doctor", "--json", url=bridge_url, doorbell="poll")
            )
            status = await trio.to_thread.run_sync(
                lambda: pgbridge("status", "--json", url=bridge_url)
            )
    assert examined.returncode == 0
    assert told(examined)["ok"]
    assert set(levels(examined).values()) == {"ok"}
    assert status.returncode == 0
    assert told(status)["drainer"]["alive"]
    assert told(status)["outbox"]["count"] == 0
    assert told(status)["last_event"]["id"] == event["id"]


def test_warnings_do_not_fail(bridge_url: str) -> None:
    result = pgbridge("doctor", "--json", url=bridge_url)
    assert result.returncode == 0
    assert levels(result)["outbox"] == "warning"


def test_an_error_fails_and_is_explained_line_by_line(
    bridge_url: str, bot: psycopg.Connection[Any]
) -> None:
    bot.execute(
        "insert into bridge.outbox (event_type, payload, captured_at)"
        " values ('a.b', '{}', now() - interval '5 minutes')"
    )
    result = pgbridge("doctor", url=bridge_url)
    assert (result.returncode, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    start = lines.index(
        "error    outbox: events in the outbox: 1, the oldest captured 5 min ago",
    )
    assert lines[start + 1 : start + 3] == [
        "         detail: no bridge drains the outbox",
        "         hint: start one: pgbridge run",
    ]
    assert "ok       standby: this server is a primary" in lines
    assert lines[-1].endswith(", error: 1")
    assert "\x1b" not in result.stdout


def test_lines_fit_the_terminal(bot_url: str) -> None:
    master, terminal = pty.openpty()
    with os.fdopen(master, "rb") as screen, os.fdopen(terminal, "wb") as output:
        subprocess.run(
            [sys.executable, "-m", "bridge", "doctor"],
            env=environment(bot_url) | {"COLUMNS": "60", "TERM": "xterm"},
            cwd=tempfile.gettempdir(),
            stdout=output,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        shown = os.read(screen.fileno(), 1_000_000).decode()
    plain = re.sub("\x1b\\[[0-9;]*m", "", shown)
    assert plain != shown
    assert max(map(len, plain.splitlines())) <= 60
    assert "error    schema_version: pgbridge is not installed in this" in plain
    assert "         detail: without its triggers, no events are\r\n" in plain


def test_json_has_every_field_of_every_finding(bridge_url: str) -> None:
    [first, *others] = told(pgbridge("doctor", "--json", url=bridge_url))["findings"]
    assert first["check"] == "connection"
    for finding in (first, *others):
        assert list(finding) == ["check", "level", "message", "detail", "hint"]
    assert [finding["check"] for finding in others] == [check.__name__ for check in CHECKS]


def test_unreachable_database_is_an_error_without_its_password() -> None:
    for options in ((), ("--json",)):
        result = pgbridge("doctor", *options, url=NOWHERE)
        assert (result.returncode, result.stderr) == (1, "")
        assert "cannot connect to the database" in result.stdout
        assert "hunter2" not in result.stdout
    assert levels(result) == {"connection": "error"}


def test_invalid_settings_exit_with_2() -> None:
    for url, listen_url, said in [
        (None, NOWHERE, "BRIDGE_DATABASE_URL is not set"),
        (NOWHERE, "mysql://u:hunter2@h/d", "BRIDGE_LISTEN_URL: must begin with postgresql://"),
        (NOWHERE, "postgresql://u:hunter2%@h/d", "BRIDGE_LISTEN_URL: has an invalid % escape"),
    ]:
        result = pgbridge("doctor", url=url, listen_url=listen_url)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith(f"pgbridge: {said}")
        assert result.stderr.count("\n") == 1
        assert "hunter2" not in result.stderr


def test_status_prints_its_lines(bridge_url: str) -> None:
    result = pgbridge("status", url=bridge_url)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-7:] == [
        "doorbell        quiet",
        "outbox          0",
        "delivery queue  0",
        "last event      none",
        "bridges         0 running, with 0 clients",
        "events          0.0 events/s",
        "deliveries      0.0 deliveries/s",
    ]
