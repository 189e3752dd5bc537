"""The guide docs/capture.md does what it says: its commands are run, its output is compared.

What differs between two runs is known by its form (``guides.VARYING``) and counts as equal. Where
the guide writes ``…``, anything may stand. All else must be as the guide has it, by the character.
"""

from __future__ import annotations

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

GUIDE = guides.guide("capture.md")


def section(number: int) -> list[guides.Block]:
    """Return the fenced blocks of a section: their kinds and texts."""
    return guides.blocks(guides.section(GUIDE, number))


class Reader:
    """Somebody who follows section 1, a block at a time, on a database of his own."""

    def __init__(self, url: str, config: Path, stack: AsyncExitStack) -> None:
        self._url = url
        self._config = config
        self._stack = stack
        self._output = ""
        self._token = ""
        self._script = ""
        # Only what the guide says: a reader's bridge is allowed nothing else.
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
                raise AssertionError(f"nobody knows what to do with a block of {kind}")

    def _here(self, text: str) -> str:
        """Put what this run has in the place of what stands for it in the guide."""
        bridge = f"127.0.0.1:{self._bridge.port}" if self._bridge else "127.0.0.1:8080"
        return (
            text.replace("YOUR_TOKEN", self._token)
            .replace("127.0.0.1:8080", bridge)
            .replace("9000", str(self._receiver_port))
        )

    async def _run(self, command: str) -> str:
        """Do what the command does; return what it prints."""
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
                raise AssertionError(f"nobody knows how to run {words}")
        return ""

    async def _received(self, lines: int) -> str:
        """Return what the receiver printed, as soon as there are so many lines."""
        assert self._receiver is not None
        assert self._receiver.stdout is not None
        printed = b""
        with trio.move_on_after(20):
            while printed.count(b"\n") < lines:
                printed += await self._receiver.stdout.receive_some()
        return printed.decode()


@asynccontextmanager
async def _receiving(script: str, port: int) -> AsyncIterator[trio.Process]:
    """Run the guide's receiver until the end of the context; yields when it listens."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    async with process.stdout:
        try:
            await _until_somebody_listens(port)
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def _until_somebody_listens(port: int) -> None:
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
    return answer.text + "\n"  # where the next prompt would stand


async def test_five_minutes_go_as_the_guide_says(empty_url: str, tmp_path: Path) -> None:
    blocks = section(1)
    assert {kind for kind, _ in blocks} >= {"sql", "toml", "sh", "text", "json", "http"}
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            reader = Reader(empty_url, tmp_path / "pgbridge.toml", stack)
            for kind, text in blocks:
                await reader.follow(kind, text)


@pytest.fixture
def shop_url(empty_url: str) -> str:
    """A database with the guide's tables."""
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute(section(1)[0][1].encode())
    return empty_url


def test_the_commands_for_a_busy_database_say_what_the_guide_shows(
    shop_url: str, server: EmbeddedPostgres, tmp_path: Path
) -> None:
    shell = guides.Shell("docs/capture.md", tmp_path, server, shop_url)
    [rules] = rules_in(1)
    (tmp_path / "pgbridge.toml").write_text(rules, "utf-8")
    shell.settings = {"config": tmp_path / "pgbridge.toml"}
    shell.run("pgbridge init")
    with psycopg.connect(shop_url, autocommit=True) as connection:
        # As a bridge leaves it that was killed while commits rang.
        connection.execute("select setval('bridge.doorbell', 0)")
    printed = [block for block in section(4) if block[0] in ("sh", "text")]
    commands = [place for place, (kind, _) in enumerate(printed) if kind == "sh"]
    assert len(commands) == 3
    for place in commands:
        # Behind the last comes what becomes of roles, which the guide's reader does not have.
        guides.shows(printed[place + 1][1] + "…", shell.run(printed[place][1]))


def rules_in(number: int) -> list[str]:
    return [text for kind, text in section(number) if kind == "toml" and "[[capture]]" in text]


def event(rule: str) -> str:
    """Return how a test of a rule is called."""
    return rule.rpartition('event = "')[2].split('"', 1)[0]


MISTAKES = [
    (rule, said)
    for (kind, rule), (answer, said) in zip(section(3), section(3)[1:], strict=False)
    if kind == "toml" and answer == "text"
]


def test_every_rule_of_the_guide_is_one_that_is_run_or_one_that_is_wrong() -> None:
    assert len(rules_in(1)) == 1
    assert len(rules_in(2)) >= 8
    assert len(rules_in(3)) == len(MISTAKES) >= 3
    assert rules_in(4) == []


@pytest.mark.parametrize("text", rules_in(2), ids=event)
def test_the_reference_shows_rules_that_parse_and_fit_the_shops_tables(
    text: str, shop_url: str
) -> None:
    rules = load_rules(text, None)
    assert rules
    if "preset" not in text:  # the preset's tables are another shop's
        with open_session(shop_url) as connection:
            assert plan_install(connection, rules).new == [rule.name for rule in rules]


@pytest.mark.parametrize(("text", "said"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_wrong_rule_is_answered_as_the_guide_says(
    text: str, said: str, shop_url: str, tmp_path: Path
) -> None:
    config = tmp_path / "pgbridge.toml"
    config.write_text(text, "utf-8")
    refused = pgbridge("init", url=shop_url, config=config)
    assert refused.returncode == (2 if "unknown key" in said else 1)
    assert refused.stderr == said
