"""Every line in the log of a running bridge is a documented event."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.docs.guides import Shell, blocks, guide
from tests.receiver import Request, answer, receiving
from tests.system.processes import SERVICE_LOGIN, Bridge, environment, listening, running
from tests.unit.test_logs import table
from tests.waiting import PATIENCE_SECONDS

#: Fields that any line may have.
COMMON = {"event", "level", "timestamp", "exception", "request_id", "worker"}
SETTINGS = {
    "poll_seconds": 0.2,
    "retry_schedule": "0,0.1,0.1",
    "access_log": "on",
    "failed_logins_per_minute": 1,
}
NOWHERE = "postgresql://user@127.0.0.1:1/nothing"


def lines_of(bridge: Bridge) -> list[dict[str, Any]]:
    """Return the log; every line must be JSON."""
    text = bridge.log.read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


async def until_logged(bridge: Bridge, event: str, times: int = 1) -> list[dict[str, Any]]:
    while len(found := bridge.logged(event)) < times:  # noqa: ASYNC110 - polled
        await trio.sleep(0.02)
    return found


async def break_protocol(bridge: Bridge) -> None:
    """Send a frame with a reserved bit on an open stream, and read to its end."""
    async with await trio.open_tcp_stream("127.0.0.1", bridge.port) as client:
        await client.send_all(
            b"GET /ws?token=the-token-of-the-tests HTTP/1.1\r\nHost: bridge\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        received = b""
        while b'"connected"' not in received:
            received += await client.receive_some()
        await client.send_all(b"\xf1\x80\0\0\0\0")
        async for _ in client:
            pass


@pytest.mark.parametrize("level", ["debug", "info"])
async def test_every_line_is_documented_and_traceable(bridge_url: str, level: str) -> None:
    refusals = 2

    async def refuse_twice(request: Request, stream: trio.SocketStream) -> None:
        refused = len([each for each in receiver.requests if each.target == "/hook"]) <= refusals
        await answer("500 Broken" if refused else "200 OK")(request, stream)

    with trio.fail_after(PATIENCE_SECONDS):
        async with receiving() as receiver:
            receiver.behaviours |= {"/hook": refuse_twice, "/gone": answer("410 Gone")}
            with psycopg.connect(bridge_url, autocommit=True) as owner:
                for path in ("/hook", "/gone"):
                    owner.execute(
                        "insert into bridge.webhooks (name, url, event_type)"
                        " values ('test', %s, 'user.created')",
                        (receiver.url(path),),
                    )
                async with running(bridge_url, log_level=level, **SETTINGS) as bridge:
                    async with listening(bridge) as client:
                        await until_logged(bridge, "leadership_acquired")
                        owner.execute("insert into public.users (auth_type) values ('telegram')")
                        assert '"user.created"' in str(await client.get_message())
                        await receiver.until(lambda: len(receiver.at("/hook")) == refusals + 1)
                    await break_protocol(bridge)
                    await until_logged(bridge, "client_dropped")
                    async with httpx.AsyncClient(base_url=bridge.rest_url) as rest:
                        for _ in range(2):
                            await rest.get("/events", headers={"X-API-Key": "a-wrong-token"})
                    # Its connection that listens, and all others.
                    owner.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity"
                        " where usename = %s and datname = current_database()",
                        (SERVICE_LOGIN,),
                    )
                    await until_logged(bridge, "database_task_failed")
                    await until_logged(bridge, "leadership_acquired", 2)
                    assert await bridge.terminate() == 0
                    lines = lines_of(bridge)

    for line in lines:
        assert line["event"] in table(), line
        levels, fields = table()[line["event"]]
        assert line["level"] in levels, line
        assert line.keys() - COMMON <= fields, line
        assert line["timestamp"].endswith("Z")

    # The delivery that is refused twice, by its id.
    retried = [line for line in lines if line["event"] == "delivery_retried"]
    [(delivery_id, event_id)] = {(line["delivery_id"], line["event_id"]) for line in retried}
    way = [line for line in lines if line.get("delivery_id") == delivery_id]
    told = [("delivery_retried", 1), ("delivery_retried", 2)]
    if level == "debug":
        told.append(("delivery_succeeded", 3))
    assert [(line["event"], line["attempt"]) for line in way] == told
    assert {(line["webhook_id"], line["event_id"]) for line in way} == {(1, event_id)}
    [failed] = [line for line in lines if line["event"] == "delivery_failed"]
    assert (failed["webhook_id"], failed["event_id"], failed["attempt"]) == (2, event_id, 1)

    # The event, from the outbox to the client, at debug.
    steps = [
        line["event"]
        for line in lines
        if line.get("event_id") == event_id and line["event"].startswith("event_")
    ]
    assert sorted(steps) == (["event_drained", "event_streamed"] if level == "debug" else [])

    # The client, from connect to disconnect.
    [dropped] = [line for line in lines if line["event"] == "client_dropped"]
    assert (dropped["reason"], dropped["address"]) == ("protocol", "127.0.0.1")
    its_own = [line["event"] for line in lines if line.get("client") == dropped["client"]]
    assert sorted(its_own) == ["client_connected", "client_disconnected", "client_dropped"]

    # The lines of one request, without those of the previous one.
    [blocked] = [line for line in lines if line["event"] == "address_blocked"]
    of_request = [line for line in lines if line.get("request_id") == blocked["request_id"]]
    assert [line["event"] for line in of_request] == ["address_blocked", "request_completed"]
    assert of_request[1]["status"] == 429
    assert len({line["request_id"] for line in lines if line["event"] == "request_completed"}) == 2


def test_documented_commands_run(server: EmbeddedPostgres, bridge_url: str, tmp_path: Path) -> None:
    page = guide("logs.md")
    [(_, line)] = [block for block in blocks(page) if block[0] == "json"]
    others = [{"delivery_id": 70, "event_id": 42}, {"event_id": 142}, {"delivery_id": 8}]
    log = [line, *(json.dumps(each) + "\n" for each in others)]
    (tmp_path / "bridge.log").write_text("".join(log))
    shell = Shell("docs/logs.md", tmp_path, server, bridge_url)
    [commands] = [block for kind, block in blocks(page) if kind == "sh"]
    assert shell.run(commands) == line + line + log[1]


CRASH = """
import bridge.{module} as module
from bridge.cli.main import main

async def crash(*_):
    raise RuntimeError("a bug\\nof two lines")

module.{function} = crash
main()
"""


@pytest.mark.parametrize(
    ("module", "function", "event", "arguments"),
    [
        ("daemon.app", "serve", "bridge_crashed", []),
        ("daemon.supervisor", "supervise", "supervisor_crashed", ["--workers", "2"]),
    ],
    ids=["bridge", "supervisor"],
)
def test_crash_is_one_line_with_its_traceback(
    module: str, function: str, event: str, arguments: list[str]
) -> None:
    program = CRASH.replace("{module}", module).replace("{function}", function)
    ended = subprocess.run(
        [sys.executable, "-c", program, "run", *arguments],
        env=environment(NOWHERE),
        cwd=tempfile.gettempdir(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    [line] = [json.loads(text) for text in ended.stderr.splitlines()]
    assert (line["event"], line["level"]) == (event, "error")
    assert "RuntimeError: a bug\n" in line["exception"]


async def test_level_and_format_apply_to_workers(bridge_url: str) -> None:
    settings = {"log_level": "warning", "log_format": "console", "bridge_nonsense": "x"}
    async with running(bridge_url, "--workers", "2", **settings) as bridge:
        with trio.fail_after(PATIENCE_SECONDS):
            while bridge.log.read_text().count("unknown_setting_ignored") < 2:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert await bridge.terminate() == 0
        lines = bridge.log.read_text().splitlines()
    assert all("[warning  ] unknown_setting_ignored" in line for line in lines)
    assert {line[line.index("worker=") :] for line in lines} == {"worker=1", "worker=2"}
