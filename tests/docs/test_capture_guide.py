"""Run the commands of docs/capture.md, and compare their output with the guide.

Values that differ between runs are recognized by form (``guides.VARYING``), and ``…`` matches
anything. Everything else must be equal character by character.
"""

import argparse
import shlex
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
import trio
from trio_websocket import WebSocketConnection

from bridge.capture.plan import plan_install
from bridge.capture.rules import load_rules
from bridge.database.sessions import open_session
from bridge.demo.postgres import EmbeddedPostgres
from tests.docs import guides
from tests.system.processes import Bridge, connected, pgbridge, running
from tests.waiting import PATIENCE_SECONDS

GUIDE = guides.guide("capture.md")


def section(number: int) -> list[guides.Block]:
    """Return the fenced blocks of a section, as kinds and texts."""
    return guides.blocks(guides.section(GUIDE, number))


class Reader:
    """Follows section 1 block by block on its own database."""

    def __init__(self, url: str, config: Path, stack: AsyncExitStack) -> None:
        self._url = url
        self._config = config
        self._stack = stack
        self._output = ""
        self._token = ""
        self._script = ""
        self._allowed_networks = ""
        self._bridge: Bridge | None = None
        self._client: WebSocketConnection | None = None
        self._receiver: trio.Process | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._receiver_port = free.getsockname()[1]

    async def follow(self, kind: str, text: str) -> None:
        match kind:
            case "sql":
                with psycopg.connect(self._url, autocommit=True) as psql:
                    psql.execute(text.encode())
            case "toml":
                self._config.write_text(text, "utf-8")
            case "python":
                self._script = text
            case "sh":
                self._output = await self._run(self._here(text))
            case "text":
                guides.shows(text, self._output)
            case "json":
                assert self._client is not None
                for line in text.splitlines():
                    guides.shows(line, str(await self._client.get_message()))
            case "http":
                guides.shows(text, await self._received(lines=text.count("\n")))
            case _:
                raise AssertionError(f"unknown kind of block: {kind}")

    def _here(self, text: str) -> str:
        """Replace the guide's placeholders with this run's values."""
        bridge = f"127.0.0.1:{self._bridge.port}" if self._bridge else "127.0.0.1:8080"
        return (
            text.replace("YOUR_TOKEN", self._token)
            .replace("127.0.0.1:8080", bridge)
            .replace("9000", str(self._receiver_port))
        )

    async def _run(self, command: str) -> str:
        """Run a command and return its output."""
        match shlex.split(command.replace("\\\n", "")):
            case ["export", assignment]:
                name, value = assignment.split("=", 1)
                if name == "BRIDGE_ALLOWED_NETWORKS":
                    self._allowed_networks = value
                else:
                    assert assignment.startswith("BRIDGE_DATABASE_URL=postgresql://")
            case ["pgbridge", "run"]:
                self._bridge = await self._stack.enter_async_context(
                    running(
                        self._url,
                        config=self._config,
                        allowed_networks=self._allowed_networks,
                    )
                )
                return self._bridge.announcement
            case ["pgbridge", *arguments]:
                done = await trio.to_thread.run_sync(
                    lambda: pgbridge(*arguments, url=self._url, config=self._config)
                )
                assert done.returncode == 0, done.stderr
                if arguments[:2] == ["token", "create"]:
                    self._token = done.stdout.strip()
                return done.stdout + done.stderr
            case ["python", "-m", "websockets", address]:
                assert self._bridge is not None
                token = address.removeprefix(f"ws://127.0.0.1:{self._bridge.port}/ws?token=")
                self._client = await self._stack.enter_async_context(connected(self._bridge, token))
            case ["python", "receiver.py"]:
                self._receiver = await self._stack.enter_async_context(
                    _receiving(self._here(self._script), self._receiver_port)
                )
            case ["curl", *arguments]:
                return await _curl(arguments)
            case words:
                raise AssertionError(f"unknown command: {words}")
        return ""

    async def _received(self, lines: int) -> str:
        """Wait until the receiver has printed this many lines; return its output."""
        assert self._receiver is not None
        assert self._receiver.stdout is not None
        printed = b""
        with trio.move_on_after(PATIENCE_SECONDS):
            while printed.count(b"\n") < lines:
                printed += await self._receiver.stdout.receive_some()
        return printed.decode()


@asynccontextmanager
async def _receiving(script: str, port: int) -> AsyncIterator[trio.Process]:
    """Run the guide's receiver within the context; yield when it listens."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    async with process.stdout:
        try:
            await _until_listening(port)
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def _until_listening(port: int) -> None:
    while True:
        try:
            connection = await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            await trio.sleep(0.05)
        else:
            await connection.aclose()
            return


async def _curl(arguments: list[str]) -> str:
    options = argparse.ArgumentParser("curl")
    options.add_argument("-X", dest="method")
    options.add_argument("-H", dest="headers", action="append")
    options.add_argument("-d", dest="data")
    options.add_argument("url")
    given = options.parse_args(arguments)
    headers = dict(header.split(": ", 1) for header in given.headers)
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.request(given.method, given.url, headers=headers, content=given.data)
    return answer.text + "\n"  # before the next prompt


async def test_tutorial_works_as_printed(empty_url: str, tmp_path: Path) -> None:
    blocks = section(1)
    assert {kind for kind, _ in blocks} >= {"sql", "toml", "sh", "text", "json", "http"}
    with trio.fail_after(PATIENCE_SECONDS):
        async with AsyncExitStack() as stack:
            reader = Reader(empty_url, tmp_path / "pgbridge.toml", stack)
            for kind, text in blocks:
                await reader.follow(kind, text)


@pytest.fixture
def shop_url(empty_url: str) -> str:
    """Return a database with the guide's tables."""
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute(section(1)[0][1].encode())
    return empty_url


def test_commands_for_a_busy_database_print_what_the_guide_shows(
    shop_url: str, server: EmbeddedPostgres, tmp_path: Path
) -> None:
    shell = guides.Shell("docs/capture.md", tmp_path, server, shop_url)
    [rules] = rules_in(1)
    (tmp_path / "pgbridge.toml").write_text(rules, "utf-8")
    shell.settings = {"config": tmp_path / "pgbridge.toml"}
    shell.run("pgbridge init")
    with psycopg.connect(shop_url, autocommit=True) as connection:
        # The state after a bridge was killed while commits notified it.
        connection.execute("select setval('bridge.doorbell', 0)")
    printed = [block for block in section(4) if block[0] in ("sh", "text")]
    commands = [place for place, (kind, _) in enumerate(printed) if kind == "sh"]
    assert len(commands) == 3
    for place in commands:
        # uninstall also prints a line about roles, which the guide's database does not have.
        guides.shows(printed[place + 1][1] + "…", shell.run(printed[place][1]))


def rules_in(number: int) -> list[str]:
    return [text for kind, text in section(number) if kind == "toml" and "[[capture]]" in text]


def event(rule: str) -> str:
    """Return a rule's event as the test's id."""
    return rule.rpartition('event = "')[2].split('"', 1)[0]


INVALID = [
    (rule, error)
    for (kind, rule), (answer, error) in zip(section(3), section(3)[1:], strict=False)
    if kind == "toml" and answer == "text"
]


def test_every_rule_of_the_guide_is_tested() -> None:
    assert len(rules_in(1)) == 1
    assert len(rules_in(2)) >= 8
    assert len(rules_in(3)) == len(INVALID) >= 3
    assert rules_in(4) == []


@pytest.mark.parametrize("text", rules_in(2), ids=event)
def test_rules_of_the_reference_fit_the_guides_tables(text: str, shop_url: str) -> None:
    rules = load_rules(text, None)
    assert rules
    if "preset" not in text:  # the preset's tables do not exist here
        with open_session(shop_url) as connection:
            assert plan_install(connection, rules).new == [rule.name for rule in rules]


@pytest.mark.parametrize(("text", "error"), INVALID, ids=range(len(INVALID)))
def test_invalid_rule_prints_the_guides_error(
    text: str, error: str, shop_url: str, tmp_path: Path
) -> None:
    config = tmp_path / "pgbridge.toml"
    config.write_text(text, "utf-8")
    refused = pgbridge("init", url=shop_url, config=config)
    assert refused.returncode == (2 if "unknown key" in error else 1)
    assert refused.stderr == error
