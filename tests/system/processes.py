"""Run ``pgbridge`` as its users do: as a process."""

import json
import os
import pty
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit, urlunsplit

import trio
from anyio.from_thread import start_blocking_portal
from trio_websocket import WebSocketConnection, wrap_client_stream
from typer.testing import CliRunner

from bridge.cli.main import app
from tests.waiting import PATIENCE_SECONDS

TOKEN = "the-token-of-the-tests"
#: A login with only the bridge's privileges; see ``create_roles`` in conftest.
SERVICE_LOGIN = "bridge_login"


def environment(url: str | None, **settings: object) -> dict[str, str]:
    """Return an environment with these settings as BRIDGE_<NAME>; receivers may be on loopback."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BRIDGE_", "PG")) and name != "DATABASE_URL"
    }
    # The receivers of tests are on this machine.
    settings = {"allowed_networks": "127.0.0.0/8", **settings}
    given = {f"BRIDGE_{name.upper()}": str(value) for name, value in settings.items()}
    if url is not None:
        given["BRIDGE_DATABASE_URL"] = url
    # The current directory may contain a pgbridge.toml.
    return {**inherited, "BRIDGE_CONFIG": "", **given}


def as_role(url: str, role: str) -> str:
    """Return the URL with which another role connects to the same database."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))


def as_service(url: str) -> str:
    """Return the URL for ``SERVICE_LOGIN`` instead of the superuser of the tests' server."""
    return as_role(url, SERVICE_LOGIN) if urlsplit(url).username == "postgres" else url


def pgbridge(
    *arguments: str, url: str | None, stdin: str = "", **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run a command and wait for it.

    Only commands that configure logs or handle signals get a process of their own: starting one
    takes half a second.
    """
    if arguments[0] not in ("run", "tail"):
        return invoked(*arguments, url=url, stdin=stdin, **settings)
    return subprocess.run(
        [sys.executable, "-m", "bridge", *arguments],
        env=environment(url, **settings),
        cwd=tempfile.gettempdir(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def invoked(
    *arguments: str, url: str | None, stdin: str = "", **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run a command in this process; ``run`` and ``tail`` only with settings that they reject."""
    with patch.dict(os.environ, environment(url, **settings), clear=True):
        ran = CliRunner().invoke(
            app, arguments, prog_name="pgbridge", input=stdin, catch_exceptions=False
        )
    return subprocess.CompletedProcess(arguments, ran.exit_code, ran.stdout, ran.stderr)


def at_terminal(
    *arguments: str, url: str, answer: str, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run a command whose standard input is a terminal, at which this line is typed."""
    ours, its = pty.openpty()
    with open(ours, "wb", buffering=0) as keyboard, open(its, "rb", buffering=0) as terminal:
        keyboard.write(f"{answer}\n".encode())
        return subprocess.run(
            [sys.executable, "-m", "bridge", *arguments],
            env=environment(url, **settings),
            cwd=tempfile.gettempdir(),
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )


def complaint(result: subprocess.CompletedProcess[str], code: int) -> str:
    """Return the one error line of a command."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("pgbridge: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@dataclass
class Bridge:
    """A running ``pgbridge run``."""

    process: trio.Process
    port: int
    log: Path
    #: The line that announces that it serves.
    announcement: str

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of an event so far."""
        whole_lines = self.log.read_text().split("\n")[:-1]
        lines = [json.loads(line) for line in whole_lines]
        return [line for line in lines if line["event"] == event]

    async def kill(self) -> None:
        """Kill it as ``kill -9`` does."""
        self.process.kill()
        await self.process.wait()

    async def terminate(self, within: float = PATIENCE_SECONDS) -> int:
        """Send SIGTERM, and return the exit code, waiting at most this many seconds."""
        self.process.send_signal(signal.SIGTERM)
        with trio.fail_after(within):
            return await self.process.wait()


@asynccontextmanager
async def running(url: str, *arguments: str, **settings: object) -> AsyncIterator[Bridge]:
    """Run a bridge during the context; yield when it serves.

    With a superuser's URLs it connects, all the same, as a role that may do what a bridge has to.
    """
    url = as_service(url)
    if "listen_url" in settings:
        settings["listen_url"] = as_service(str(settings["listen_url"]))
    with tempfile.NamedTemporaryFile(prefix="pgbridge-", suffix=".log") as log:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "bridge", "run", *arguments],
            env=environment(url, **{"port": 0, "token": TOKEN, **settings}),
            cwd=tempfile.gettempdir(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # its own process group, as in a terminal
        )
        assert process.stdout is not None
        async with process.stdout:
            try:
                with trio.fail_after(PATIENCE_SECONDS):
                    line = await _line(process.stdout)
                if not line:
                    raise AssertionError(
                        f"it did not start: {await trio.Path(log.name).read_text()}"
                    )
                address = line.split("http://", 1)[1].split(" ", 1)[0]
                yield Bridge(process, int(address.rsplit(":", 1)[1]), Path(log.name), line)
            finally:
                if process.returncode is None:
                    process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


@contextmanager
def running_beside(url: str, *arguments: str, **settings: object) -> Iterator[Bridge]:
    """Run a bridge as ``running`` does, for a test that is not async."""
    with (
        start_blocking_portal("trio") as portal,
        portal.wrap_async_context_manager(running(url, *arguments, **settings)) as bridge,
    ):
        yield bridge


async def _line(stream: trio.abc.ReceiveStream) -> str:
    received = b""
    while not received.endswith(b"\n"):
        more = await stream.receive_some()
        if not more:
            break
        received += more
    return received.decode()


def lasting_port() -> int:
    """Return a free port that stays free until it is used.

    It is outside the range of outgoing connections: a client that keeps connecting to it could
    otherwise get the port for its own end.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        with socket.socket() as probe:
            port = random.randrange(first - 8000, first)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Lines:
    """The lines that a process writes, as they arrive."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self.ended = False
        self._changed = trio.Event()

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        """Read a stream to its end."""
        rest = b""
        with suppress(trio.BrokenResourceError):  # a closed terminal
            async for data in stream:
                *lines, rest = (rest + data).split(b"\n")
                self.all += [line.decode() for line in lines]
                self._tell()
        self.all += [rest.decode()] if rest else []
        self.ended = True
        self._tell()

    async def count(self, count: int) -> list[str]:
        """Wait for this many lines, and return them."""
        while len(self.all) < count:
            assert not self.ended, self.all
            await self._changed.wait()
        return self.all[:count]

    async def having(self, text: str, times: int = 1) -> str:
        """Wait until a text has appeared this many times; return the last line with it."""
        while True:
            found = [line for line in self.all if text in line]
            if len(found) >= times:
                return found[times - 1]
            assert not self.ended, self.all
            await self._changed.wait()

    async def end(self) -> list[str]:
        """Return all lines after the end."""
        while not self.ended:
            await self._changed.wait()
        return self.all

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@dataclass
class Child:
    """A running process and its output."""

    process: trio.Process
    out: Lines
    err: Lines

    async def end(self, number: int | None = None) -> int:
        """Send a signal if given; return the exit code after reading all output."""
        if number is not None:
            self.process.send_signal(number)
        code = await self.process.wait()
        await self.out.end()
        await self.err.end()
        return code


@asynccontextmanager
async def child(command: Sequence[str], env: Mapping[str, str]) -> AsyncIterator[Child]:
    """Run a command during the context, for ``PATIENCE_SECONDS`` at most, and read its output."""
    process = await trio.lowlevel.open_process(
        list(command),
        env=dict(env),
        cwd=tempfile.gettempdir(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    running = Child(process, Lines(), Lines())
    with trio.fail_after(PATIENCE_SECONDS):
        async with process.stdout, process.stderr, trio.open_nursery() as nursery:
            nursery.start_soon(running.out.read, process.stdout)
            nursery.start_soon(running.err.read, process.stderr)
            try:
                yield running
            finally:
                if process.returncode is None:
                    process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def listening(bridge: Bridge) -> AsyncIterator[WebSocketConnection]:
    """Connect to the stream and read the welcome."""
    async with connected(bridge, TOKEN) as client:
        assert '"connected"' in str(await client.get_message())
        yield client


@asynccontextmanager
async def connected(bridge: Bridge, token: str) -> AsyncIterator[WebSocketConnection]:
    """Connect to the stream; the welcome is the first message."""
    # On our own stream: trio-websocket's client leaves its socket open when cancelled.
    stream = await trio.open_tcp_stream("127.0.0.1", bridge.port)
    async with stream, trio.open_nursery() as nursery:
        client = await wrap_client_stream(
            nursery, stream, "127.0.0.1", f"/ws?token={token}", message_queue_size=10_000
        )
        yield client
        nursery.cancel_scope.cancel()
